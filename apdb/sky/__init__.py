"""HTM pixels of the sphere, and the locks on them."""
