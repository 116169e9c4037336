"""Fluxes that lack part of their light: a fit over pixels without data, over an edge. They are kept, flagged, and no part of a mean.

What a flux lacks is what the model of the PSF says: however right the model is, its error is that of no other flux of the object.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import F64, Flags

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FLAG_BITS",
    "FLAG_PLANES",
    "FLAG_WORDS",
    "LACKING_BITS",
    "SOURCE_FLAGS",
    "blanked",
    "blanks",
    "lacking_keys",
    "without_lacking",
]

FLAG_PLANES = ("SAT", "BAD", "CR", "NO_DATA", "INJECTED", "HIGH_VARIANCE", "SAT_TEMPLATE", "INEXACT_PSF")
FLAG_BITS = {
    "edge": 0, "noGoodPixels": 1, "invalidPsf": 2, **{p.lower(): 3 + k for k, p in enumerate(FLAG_PLANES[:-1])}, "neighbour": 10,
    FLAG_PLANES[-1].lower(): 11,
}  # fmt: skip
"""Bits of the packed flags of a forced flux."""

FLAG_WORDS = {
    "edge": "at the edge: more than 0.1 % of the PSF's light is off the image, or lost at pixels that are marked as its edge",
    "noGoodPixels": "less than 70 % of the PSF's light falls on pixels with data (no bad ones, no cosmic rays): there is no flux",
    "invalidPsf": "the PSF has no value there",
    "sat": "a saturated pixel among the 3 x 3 around the position",
    "bad": "a bad pixel among the 3 x 3",
    "cr": "a cosmic ray among the 3 x 3",
    "no_data": "the fit lacks data: more than 0.1 % of the PSF's light falls on pixels that are not used (no data, bad, cosmic rays), or one of the 3 x 3 has no data",
    "injected": "an injected source among the 3 x 3",
    "high_variance": "a pixel of high variance among the 3 x 3",
    "sat_template": "a pixel that is saturated in the template among the 3 x 3",
    "inexact_psf": "a pixel among the 3 x 3 whose PSF is not quite that of the template: a frame of it was left out there",
    "neighbour": "another of the positions lies within two FWHM",
}
"""What each of them says."""

LACKING_BITS = sum(1 << FLAG_BITS[name] for name in ("edge", "noGoodPixels", "no_data"))
"""Of the difference: where any is set the flux lacks part of its light. An index of the side table holds these rows."""

_DIFFERENCE_FLAGS, _SCIENCE_FLAGS = ("pixelFlags_edge", "pixelFlags_nodata"), ("forced_PsfFlux_flag",)
SOURCE_FLAGS = (*_DIFFERENCE_FLAGS, *_SCIENCE_FLAGS)
"""Columns of sources that say that their flux on the difference, or that on the science image, lacks light."""

_FLUXES = ("psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr")
_KEY = ["diaObjectId", "visit", "detector"]


def without_lacking(sources: "pd.DataFrame") -> "pd.DataFrame":
    """Return sources without those fluxes that lack light: NaN, as are their errors. Flags that are not there or NULL are not set."""
    flags = {n: _plain(sources[n]) for n in SOURCE_FLAGS if n in sources}
    changed = blanks({**{n: sources[n].to_numpy(np.float64) for n in _FLUXES if n in sources}, **flags})
    return sources.assign(**changed) if changed else sources


def _plain(flags: "pd.Series[bool]") -> Flags:
    """Return flags, of which some may be missing, as those that are set."""
    is_plain = flags.dtype == np.bool_  # what is read for statistics: nothing is missing
    return flags.to_numpy(np.bool_) if is_plain else flags.eq(True).to_numpy(np.bool_, na_value=False)


def blanks(sources: Mapping[str, NDArray[Any]]) -> dict[str, F64]:
    """Return the columns of fluxes and errors of sources that change where fluxes that lack light are NaN.

    Parameters
    ----------
    sources
        Fluxes, errors and `SOURCE_FLAGS` by name, each of shape (N,); those that are not there are not set.
    """
    changed: dict[str, F64] = {}
    for flags, names in (
        (_DIFFERENCE_FLAGS, _FLUXES[:2]),
        (_SCIENCE_FLAGS, _FLUXES[2:]),
    ):
        held = [sources[flag] for flag in flags if flag in sources]
        lacking = np.logical_or.reduce(held) if held else np.zeros(0, np.bool_)
        if lacking.any():
            changed |= {n: np.where(lacking, np.nan, sources[n].astype(np.float64)) for n in names if n in sources}
    return changed


def lacking_keys(flags: "pd.DataFrame") -> "pd.DataFrame":
    """Return diaObjectId, visit, detector of the rows of a side table of forced sources whose flux on the difference lacks light."""
    lacking: pd.DataFrame = flags.loc[(flags["flags"].to_numpy(np.int64) & LACKING_BITS) != 0, _KEY]
    return lacking


def blanked(forced: "pd.DataFrame", lacking: "pd.DataFrame") -> "pd.DataFrame":
    """Return forced sources without the fluxes on the difference that lack light (`lacking_keys`): NaN, as are their errors."""
    if not len(lacking) or not len(forced):
        return forced
    import pandas as pd  # here: who only names the bits does not load it

    some = np.flatnonzero(np.isin(forced.diaObjectId.to_numpy(), lacking.diaObjectId.to_numpy()))
    keys, wanted = (pd.MultiIndex.from_frame(f[_KEY].astype(np.int64)) for f in (forced.iloc[some], lacking))
    rows = some[keys.isin(wanted)]
    if not rows.size:
        return forced
    changed = {}
    for name in ("psfFlux", "psfFluxErr"):
        changed[name] = forced[name].to_numpy(copy=True)
        changed[name][rows] = np.nan
    return forced.assign(**changed)
