"""What changed, chunk by chunk, for other databases."""
