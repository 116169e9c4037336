"""Pixels without a value, found and flagged when an image comes in; `exposure.io` calls them in this order.

`fill` finds areas of one value that resampling programs write where there are no data, and the level of saturation;
`odd_lines` finds rows and columns that hold no sky (overscan, dead lines); both become NaN. `missing` then
sets ``NO_DATA`` where value or variance are none, and refuses an image without any pixel left. `bad_pixels` sets ``BAD`` where
the detector's map, known before, says so. `connected` measures areas of touching pixels for the others.
"""
