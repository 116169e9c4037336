"""Summary columns of DiaObjects: the stored ones, the optional ones, the multi-band periodogram."""
