"""Two images without a service: checked, subtracted, written as files."""
