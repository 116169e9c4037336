"""What people look at, made in a process of its own: pictures of a visit, a place followed through it, cutouts."""
