"""Two images brought together: registration, stars for the kernel, the PSF-matching kernel."""
