"""How exposures come in from files and go out to them; no other room opens FITS.

In: `opening` opens a file, by `unpack` when it is compressed, and checks its sizes; ``file.fits[CCD3]`` names one image in it.
`native` then looks at the first header. In the layout that this package writes, the file is read to the last bit,
with `parts` for PSF, calibration and visit. Any other file is plain: `plain` reads it by the rules of an instrument
file; `which_image` finds the extension of the image and of its planes, `pixel_planes` reads these and marks what is
missing or saturated. `several` lists the images of a mosaic and pairs them with those of another; `from_arrays`
sends images in memory down the same path.
Out: `writing` writes an exposure in the layout of `native`, or a table, and puts it in place when it is complete.
Tables of exposures, one row per detector: `exposure_catalog`, and `rubin_catalog` for those that the Rubin stack wrote.
"""
