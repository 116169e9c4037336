"""Is this difference what it should be: the template's stars found again, kernel, direction, depth, masks; the gate."""
