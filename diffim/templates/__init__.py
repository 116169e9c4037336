"""Template sets: tiles of the sky, their coadds, and the patch under an image."""
