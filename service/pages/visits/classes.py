"""What a detection is: its class, and the flags that people ask for."""

from typing import Any

__all__ = ["CLASSES", "CLASS_WORDS", "COLUMNS", "SNR_WORDS", "describe_source", "longest_point"]

LONG_TRAIL, LONG_TRAIL_ARCSEC = 2.0, 3.0  # a trail is longer: in FWHM of the PSF; where that is not known
CLASSES = (
    ("solar", "solar system"),
    ("dipole", "dipole"),
    ("trail", "trail"),
    ("positive", "brighter"),
    ("negative", "fainter"),
)
CLASS_WORDS = dict(CLASSES)
SNR_WORDS = (
    "S/N at detection is the height of the peak in the significance image, whose noise counts also how well the light of constant "
    "stars is subtracted (starFluxResidual, starPositionResidual): on a bright star of the template it is less than flux / error, "
    "where the noise of the pixels alone counts"
)
_FLAGS = {
    "centroid_flag": "centroid", "psfFlux_flag": "flux", "pixelFlags_edge": "edge", "pixelFlags_saturated": "saturated",
    "pixelFlags_suspect": "suspect", "pixelFlags_cr": "cosmic ray", "pixelFlags_streak": "streak", "pixelFlags_bad": "bad pixel",
    "pixelFlags_nodata": "no data", "pixelFlags_interpolated": "interpolated", "glint_trail": "glint",
}  # fmt: skip
COLUMNS = (
    '"diaSourceId" AS id, "diaObjectId" AS object, "ssObjectId" AS body, ra, dec, x, y, snr, "psfFlux" AS flux, '
    '"psfFluxErr" AS error, reliability, "isDipole" AS dipole, "isNegative" AS negative, "trailLength" AS trail, '
    '"timeWithdrawnMjdTai" AS withdrawn, ' + ", ".join(f'"{name}"' for name in _FLAGS)
)
"""Of DiaSource, for `describe_source`."""


def longest_point(seeing_arcsec: float | None) -> float:
    """Return the length (arcsec) above which what is long is a trail."""
    return LONG_TRAIL * (seeing_arcsec or 0.0) or LONG_TRAIL_ARCSEC


def describe_source(source: dict[str, Any], longest: float) -> None:
    """Set the ``kind`` (a name of `CLASSES`), ``flags`` (words) and ``ratio`` (flux over error) of a row of `COLUMNS`."""
    source["kind"] = _class_of(source, longest)
    source["flags"] = [words for name, words in _FLAGS.items() if source[name]]
    source["ratio"] = source["flux"] / source["error"] if source["flux"] is not None and source["error"] else None


def _class_of(source: dict[str, Any], longest: float) -> str:
    if source["body"]:
        return "solar"
    if source["dipole"]:
        return "dipole"
    if source["trail"] is not None and source["trail"] > longest:
        return "trail"
    return "negative" if source["negative"] or (source["flux"] or 0) < 0 else "positive"
