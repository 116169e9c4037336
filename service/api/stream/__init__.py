"""Changes of state as they happen: read once for all who follow them."""
