"""Who is who: images brought onto the sky, sources of one star, stars of the reference catalogues."""
