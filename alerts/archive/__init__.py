"""Alert files: written, found by visit, time or object, checked, exported."""
