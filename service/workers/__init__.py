"""The supervisor and its job processes."""
