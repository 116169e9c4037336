"""What the Virtual Observatory reads beside the cone search."""
