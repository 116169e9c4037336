"""The columns of the tables that ``alertprod diff --sources`` writes: names, units and meanings, in their order.

Names that the schema of the alert production database has keep its meaning and unit (nJy, degrees, arcsec, arcsec^2).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from exposure.mask import PIXEL_FLAGS

__all__ = ["COLUMNS", "FLAG_BITS", "IMAGE_UNIT", "RELIABLE", "Column"]

IMAGE_UNIT = "image"  # stands for the unit of the image's pixels, which its header may name
RELIABLE = 0.5  # sources below are counted apart in what is said and drawn


class Column(NamedTuple):
    """Unit (as FITS and VOTable write it, empty for none, or `IMAGE_UNIT`) and meaning of a column."""

    unit: str
    meaning: str


# bit of `flags`: the columns of which one is set, and what it says
FLAG_BITS: Mapping[int, tuple[tuple[str, ...], str]] = MappingProxyType({
    1: (("centroid_flag",), "the position is that of the highest pixel"),
    2: (("psfFlux_flag",), "the PSF flux failed"),
    4: (("pixelFlags_edge", "pixelFlags_offimage"), "at the edge of the image"),
    8: (("pixelFlags_saturated", "pixelFlags_sat_template"), "saturated in the image or in the template"),
    16: (("pixelFlags_cr",), "cosmic ray"),
    32: (("pixelFlags_bad", "pixelFlags_nodata"), "bad pixels, or pixels without data"),
    64: (
        ("pixelFlags_suspect", "pixelFlags_high_variance", "pixelFlags_spike", "pixelFlags_inexact_psf"),
        "suspect pixels",
    ),
    128: (("pixelFlags_streak", "glint_trail"), "on a streak, or in a line of flashes"),
    256: (("pixelFlags_interpolated",), "interpolated pixels"),
})  # fmt: skip

_POSITION = {
    "x": Column("pixel", "column of the centroid; the centre of the first pixel is 0 (FITS counts from 1)"),
    "y": Column("pixel", "row of the centroid; the centre of the first pixel is 0 (FITS counts from 1)"),
    "xErr": Column("pixel", "standard error of x"),
    "yErr": Column("pixel", "standard error of y"),
    "ra": Column("deg", "right ascension, ICRS"),
    "dec": Column("deg", "declination, ICRS"),
    "raErr": Column("deg", "standard error of ra on the sky, cos(dec) included"),
    "decErr": Column("deg", "standard error of dec"),
}
_BRIGHTNESS = {
    "flux": Column(
        IMAGE_UNIT, "PSF flux on the difference: in nJy where the image is calibrated, else in its own unit"
    ),
    "fluxErr": Column(IMAGE_UNIT, "standard error of flux, in the unit of flux"),
    "snr": Column(
        "",
        "significance of the detection: flux of a point source over its noise, without sign; the noise counts also what constant "
        "stars leave (`starFluxResidual` times the light of the template, `starPositionResidual`), which `fluxErr` does not: on "
        "bright stars it is the smaller of the two",
    ),
    "mag": Column("mag", "AB magnitude of flux, -2.5 log10(flux / 3631 Jy); missing where flux is not positive"),
    "magErr": Column("mag", "standard error of mag"),
}
_KIND = {
    "isNegative": Column("", "whether it became fainter: there is no positive part"),
    "isDipole": Column("", "whether two lobes of opposite sign fit it: a star that moved, or was registered badly"),
    "isTrail": Column("", "whether it is longer than three radii of the PSF"),
    "reliability": Column("", "probability that it is a change on the sky"),
    "flags": Column("", "sum of the bits of the table of flags; 0 is clean"),
}
_FLUXES = {
    "psfFlux": Column("nJy", "PSF flux on the difference"),
    "scienceFlux": Column("nJy", "PSF flux on the image at the same position"),
    "templateFlux": Column("nJy", "PSF flux on the template at the same position"),
    "apFlux": Column("nJy", "flux on the difference within 12 px, with what a point source has further out"),
    "trailFlux": Column("nJy", "flux of a line convolved with the PSF; PSF flux of what is no longer than a point"),
    "dipoleMeanFlux": Column("nJy", "mean of the absolute fluxes of the two lobes"),
    "dipoleFluxDiff": Column("nJy", "difference of the absolute fluxes of the two lobes"),
    "psfInstFlux": Column(IMAGE_UNIT, "PSF flux on the difference"),
    "scienceInstFlux": Column(IMAGE_UNIT, "PSF flux on the image at the same position"),
    "templateInstFlux": Column("", "PSF flux on the template at the same position, in the template's unit"),
    "apInstFlux": Column(IMAGE_UNIT, "flux on the difference within 12 px, with what a point source has further out"),
    "trailInstFlux": Column(
        IMAGE_UNIT, "flux of a line convolved with the PSF; PSF flux of what is no longer than a point"
    ),
    "dipoleMeanInstFlux": Column(IMAGE_UNIT, "mean of the absolute fluxes of the two lobes"),
    "dipoleDiffInstFlux": Column(IMAGE_UNIT, "difference of the absolute fluxes of the two lobes"),
    "dipole_pos_instFlux": Column(IMAGE_UNIT, "flux of the positive lobe"),
    "dipole_neg_instFlux": Column(IMAGE_UNIT, "flux of the negative lobe"),
}
_QUALITY = {
    "significance": Column("", "the same as snr"),
    "peakSign": Column("", "sign of the highest pixel, 1 or -1"),
    "x_y_Cov": Column("pixel**2", "covariance of x and y"),
    "ra_dec_Cov": Column("deg**2", "covariance of ra cos(dec) and dec"),
    "psfChi2": Column("", "chi^2 of the PSF fit"),
    "psfLnL": Column("", "ln likelihood of the PSF fit"),
    "psfNdata": Column("", "pixels in the PSF fit"),
    "extendedness": Column("", "0 is a point source, 1 is extended"),
    "reliabilityVersion": Column("", "version of the model behind reliability"),
    "footprintArea": Column("pixel", "pixels of the footprint"),
    "bboxWidth": Column("pixel", "width of the footprint"),
    "bboxHeight": Column("pixel", "height of the footprint"),
    "bboxSize": Column("pixel", "side of the square around the centroid that holds the footprint"),
    "sky_source": Column("", "whether it is an empty place that was asked for (doSkySources)"),
    "glint_trail": Column("", "whether it lies on a line of flashes"),
}
_SHAPE = (
    {
        "ixx": Column("arcsec**2", "adaptive second moment, x east"),
        "iyy": Column("arcsec**2", "adaptive second moment, y north"),
        "ixy": Column("arcsec**2", "adaptive second moment, x east, y north"),
        "ixxPSF": Column("arcsec**2", "that moment of the PSF"),
        "iyyPSF": Column("arcsec**2", "that moment of the PSF"),
        "ixyPSF": Column("arcsec**2", "that moment of the PSF"),
        "ixxPixels": Column("pixel**2", "adaptive second moment along x"),
        "iyyPixels": Column("pixel**2", "adaptive second moment along y"),
        "ixyPixels": Column("pixel**2", "adaptive second moment of x and y"),
        "ixxPSFPixels": Column("pixel**2", "that moment of the PSF"),
        "iyyPSFPixels": Column("pixel**2", "that moment of the PSF"),
        "ixyPSFPixels": Column("pixel**2", "that moment of the PSF"),
        "trailLength": Column("arcsec", "length of the trail; 0 where a point explains it as well"),
        "trailAngle": Column("deg", "position angle of the trail, east of north, 0 to 180"),
        "trailLengthPixels": Column("pixel", "length of the trail; 0 where a point explains it as well"),
        "trailAnglePixels": Column("rad", "angle of the trail from +x towards +y"),
        "trailChi2": Column("", "chi^2 of the trail"),
        "trailNdata": Column("", "pixels in the fit of the trail"),
        "dipoleLength": Column("arcsec", "distance of the two lobes"),
        "dipoleAngle": Column("deg", "position angle from the negative to the positive lobe, east of north"),
        "dipoleLengthPixels": Column("pixel", "distance of the two lobes"),
        "dipoleAnglePixels": Column("rad", "angle from the negative to the positive lobe, from +x towards +y"),
        "dipoleChi2": Column("", "chi^2 of the dipole fit on the difference"),
        "dipoleNdata": Column("", "pixels in the dipole fit"),
        "dipoleFitAttempted": Column("", "whether a dipole was fitted"),
    }
    | {
        f"dipole_{part}{axis}": Column("pixel", f"{axis} of the {name}")
        for part, name in (("", "middle of the dipole"), ("pos_", "positive lobe"), ("neg_", "negative lobe"))
        for axis in "xy"
    }
    | {f"dipole_{axis}Err": Column("pixel", f"standard error of dipole_{axis}") for axis in "xy"}
)
_FAILED = {
    "centroid_flag": "the centroid failed: x and y are those of the highest pixel",
    "psfFlux_flag": "the PSF flux failed", "psfFlux_flag_edge": "the PSF reaches over the edge",
    "psfFlux_flag_noGoodPixels": "too few usable pixels for the PSF flux",
    "forced_PsfFlux_flag": "scienceFlux failed", "forced_PsfFlux_flag_edge": "the PSF reaches over the image's edge",
    "forced_PsfFlux_flag_noGoodPixels": "too few usable pixels for scienceFlux",
    "apFlux_flag": "the aperture flux failed", "apFlux_flag_apertureTruncated": "the aperture reaches over the edge",
    "shape_flag": "the moments did not converge", "shape_flag_no_pixels": "no pixels for the moments",
    "shape_flag_not_contained": "the centre is outside of the footprint's box",
    "shape_flag_parent_source": "a blend, which is measured in its parts",
    "trail_flag": "the trail failed with the moments", "trail_flag_off_image": "an end of the trail is off the image",
    "trail_flag_edge": "an end of the trail is at the edge",
    "trail_flag_suspect_long_trail": "the trail is longer than three radii of the PSF",
    "pixelFlags": "the flags of pixels could not be set", "pixelFlags_offimage": "the centre is off the image",
}  # fmt: skip
_WHERE = {"": "a pixel of the footprint", "Center": "one of the 3 x 3 pixels around (x, y)",
          "CenterAll": "all of the 3 x 3 pixels around (x, y)"}  # fmt: skip
_PLANES = {
    f"pixelFlags_{name}{where}": Column("", f"{plane} is set in {text}")
    for name, plane in PIXEL_FLAGS.items()
    for where, text in _WHERE.items()
}
_TIME = {
    "midpointMjdTai": Column("d", "middle of the exposure, MJD TAI"),
    "band": Column("", "filter band"),
}


def _with_errors(fluxes: Mapping[str, Column]) -> dict[str, Column]:
    """Put the column of its standard error after each flux."""
    out = {}
    for name, column in fluxes.items():
        out[name] = column
        out[f"{name}Err"] = column._replace(meaning=f"standard error of {name}")
    return out


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {"id": Column("", "number of the source in this table, from 1")}
    | _POSITION | _BRIGHTNESS | _KIND | _with_errors(_FLUXES) | _QUALITY | _SHAPE
    | {name: Column("", meaning) for name, meaning in _FAILED.items()} | _PLANES | _TIME
)  # fmt: skip
