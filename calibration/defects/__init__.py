"""Bad pixels: maps of them, tracks of cosmic rays, and values that replace them."""
