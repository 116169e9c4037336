"""What a joint fit reads and writes."""
