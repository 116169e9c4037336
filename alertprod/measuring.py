"""Fluxes at given places of any image."""

from typing import TYPE_CHECKING, Any

import numpy as np

from alertprod.positions import Places, places_of
from tasks.arrays import F64
from tasks.errors import CallerError

if TYPE_CHECKING:
    import pandas as pd

    from exposure import Exposure, Instrument

    F64 = F64

__all__ = ["photometry"]

APERTURE_FWHM = 2.0  # radius of the circle in FWHM of the PSF: 0.999 of a Moffat star's light, all of a Gaussian's
UNUSABLE = ("edge", "noGoodPixels", "invalidPsf", "sat", "bad", "cr", "no_data")


def photometry(
    image: Any,
    positions: Any,
    *,
    pixel: bool | None = None,
    aperture: float | None = None,
    instrument: "str | Instrument | None" = None,
    subtract_sky: bool = True,
) -> "pd.DataFrame":
    """Measure PSF and aperture fluxes at given positions, whether something is there or not.

    Parameters
    ----------
    image
        A `Difference` (its difference is measured), an `Exposure`, or whatever `alertprod.read` reads. It is not changed.
        An image without variance gets the noise of its sky and sources; one without PSF gets one from its stars.
    positions
        SkyCoord; a tuple of two columns ``(ra, dec)``; a table (pandas, astropy, Arrow, structured array, dict) with
        columns ra and dec or x and y; pairs ``[(ra, dec), ...]`` or an array of shape (N, 2); the path of such a table.
        Numbers without a unit are ICRS degrees, text may be sexagesimal.
    pixel
        True: numbers are pixels (x, y), the centre of the first pixel is (0, 0) plus the image's origin.
    aperture
        Radius of the circle in px, by default twice the FWHM of the PSF.
    instrument
        Camera by whose rules files and arrays are read.
    subtract_sky
        Take a smooth sky off first. Never done with a `Difference`.

    Returns
    -------
    table : `pandas.DataFrame`
        One row per position, in order: ``ra``, ``dec`` (deg, NaN without a WCS), ``x``, ``y`` (px), ``flux``,
        ``fluxErr`` (PSF fit), ``snr``, ``apFlux``, ``apFluxErr`` (sum in the circle), ``mag``, ``magErr`` (AB, of calibrated
        images with a positive flux), ``flag`` (do not trust the flux), ``flags`` (bits: page "Flags" of the reference).
        Fluxes are nJy where the image is calibrated, else in its own unit; ``table.attrs["unit"]`` says which. Where there
        are no pixels fluxes are NaN and ``flag`` is set.

    Raises
    ------
    InputType
        Image or positions are of a kind that cannot be used.
    WcsMissing
        Positions on the sky, and the image has no WCS.
    TooFewStars
        The image has no PSF and too few stars to measure it on.

    Examples
    --------
    >>> table = photometry("new.fits", [(150.0, 2.0), (150.001, 2.002)])
    >>> len(table), table.attrs["unit"]
    (2, 'image')
    """
    places = places_of(positions, pixel)
    if aperture is not None and not aperture > 0:
        raise CallerError(f"the radius of the aperture must be positive, got {aperture}")
    exposure = _prepared(image, instrument, subtract_sky)
    return _measured(exposure, places, aperture)


def _prepared(image: Any, instrument: "str | Instrument | None", sky: bool) -> "Exposure":
    """Return an exposure of our own with variance and PSF, its sky taken off."""
    from alertprod.difference import Difference
    from alertprod.reading import read, rules_of

    if isinstance(image, Difference):
        return image.exposure
    from calibration.characterize import add_psf
    from calibration.noise import fill_variance, subtract_background
    from calibration.sources import detect_sources

    exposure, rules = read(image, instrument), rules_of(instrument)
    measured = not np.isfinite(exposure.variance).any()
    if sky or measured:
        rms = subtract_background(exposure, rules.characterize.background_mesh)
        if measured:
            fill_variance(exposure, rms, rules.model_copy(update={"variance": "empirical"}))
    if exposure.psf is None:
        add_psf(exposure, detect_sources(exposure), rules)
    return exposure


def _measured(exposure: "Exposure", places: Places, aperture: float | None) -> "pd.DataFrame":
    import pandas as pd

    from exposure.photocalib import PhotoCalib, njy_to_abmag
    from exposure.psf import fwhm_of
    from forced.apertures import aperture_fluxes
    from forced.calibrated import FLAG_BITS, calibrated_fluxes

    x, y, ra, dec = _both(exposure, places)
    psf = exposure.require_psf()
    radius = aperture or APERTURE_FWHM * float(fwhm_of(psf.moments_at(*psf.average_position()))[0])
    fluxes = calibrated_fluxes(exposure, x, y)
    calib = exposure.photo_calib or PhotoCalib(1.0)
    sums = [v * calib.at(np.nan_to_num(x), np.nan_to_num(y)) for v in aperture_fluxes(exposure, x, y, radius)]
    flux, error = fluxes.flux.to_numpy(), fluxes.fluxErr.to_numpy()
    flags = fluxes["flags"].to_numpy()
    wrong = sum(1 << FLAG_BITS[name] for name in UNUSABLE)
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = flux / error
        calibrated = flux if exposure.photo_calib is not None else np.full(flux.size, np.nan)
        magnitude, magnitude_error = njy_to_abmag(calibrated), np.where(calibrated > 0, 2.5 / np.log(10) / snr, np.nan)
    table = pd.DataFrame(
        {
            "ra": ra,
            "dec": dec,
            "x": x,
            "y": y,
            "flux": flux,
            "fluxErr": error,
            "snr": snr,
            "apFlux": sums[0],
            "apFluxErr": sums[1],
            "mag": magnitude,
            "magErr": magnitude_error,
            "flag": ((flags & wrong) != 0) | ~np.isfinite(flux),
            "flags": flags,
        }
    )
    table.attrs |= {"unit": "nJy" if exposure.photo_calib is not None else "image", "apertureRadius": radius}
    return table


def _both(exposure: "Exposure", places: Places) -> tuple["F64", "F64", "F64", "F64"]:
    """Return frame positions and sky positions; NaN where there is none."""
    placed = np.isfinite(places.first) & np.isfinite(places.second)
    other = np.full((2, len(places)), np.nan)
    given = places.first, places.second
    if places.pixel:
        if exposure.wcs is not None:
            other[:, placed] = exposure.wcs.pixel_to_sky(*(v[placed] for v in given))
        return *given, other[0], other[1]
    other[:, placed] = exposure.require_wcs().sky_to_pixel(*(v[placed] for v in given))
    return other[0], other[1], *given
