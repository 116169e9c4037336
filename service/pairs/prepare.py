"""A pair before it is subtracted: skies taken off, variances filled in, on one grid of pixels, each with a PSF."""

from functools import partial

import numpy as np

from calibration.defects.mending import mend_with_sky
from calibration.noise import fill_variance, subtract_background
from calibration.stars import bright_stars
from diffim.errors import MismatchError, NoTemplateCoverage
from diffim.matching.registration import fit_displacement, match_lists, resampled
from diffim.pixels.warp import warp_exposure
from diffim.subtraction.variance_scale import check_variance
from exposure import Exposure, Instrument, subtract_mesh
from exposure.background import subtract_plane
from exposure.sky_steps import subtract_steps
from exposure.stars import Stars
from exposure.threads import in_threads

__all__ = ["kernel_candidates", "prepare_pair", "subtract_sky"]

BORDER = 40
MESH = 256
ENOUGH_STARS = 100  # bright ones; where there are fewer, faint ones are searched too


def prepare_pair(
    new: Exposure, old: Exposure, rules: Instrument, registered: bool, register: bool
) -> tuple[Exposure, Exposure, Stars]:
    """Return a pair without sky, on one pixel grid, each with a PSF, and the stars of the image.

    The exposures are changed in place, but for a template that is resampled.

    Raises
    ------
    MismatchError, NoTemplateCoverage
        Shapes that differ though the pair is registered; no pixel in common.
    """
    if registered and new.image.shape != old.image.shape:
        raise MismatchError(
            f"registered images must have one shape, got {new.image.shape} and {old.image.shape} (height, width): cut "
            "both to the part that they share, or use --register (their stars say how one lies on the other)"
        )
    in_threads(partial(mend_with_sky, rules=rules), (new, old))
    aligned = registered or register  # else the template loses its sky once it is resampled
    in_threads(partial(subtract_sky, rules=rules), (new, old) if aligned else (new,))
    new_stars = kernel_candidates(new, rules)
    if register:
        old = _registered(new, old, new_stars, rules)
    elif registered:
        old.wcs = new.wcs
    else:
        old = _warped(new, old, rules)
    if old.psf is None:
        kernel_candidates(old, rules)
    return new, old, new_stars


def subtract_sky(exposure: Exposure, rules: Instrument) -> None:
    """Subtract the sky; fill in the variance where the file has none."""
    if not np.isfinite(exposure.variance).any():
        rms = subtract_background(exposure, MESH)
        fill_variance(exposure, rms, rules.model_copy(update={"variance": "empirical"}))
        return
    exposure.metadata["nSkySteps"] = float(subtract_steps(exposure))
    subtract_plane(exposure, MESH)
    subtract_mesh(exposure, MESH, "SAT", "BAD")
    check_variance(exposure, relative=bool(exposure.metadata.get("weighted")))


def kernel_candidates(exposure: Exposure, rules: Instrument) -> Stars:
    """Return the sources that may be kernel stars; the PSF is measured on them where the file has none."""
    stars = bright_stars(exposure)
    if len(stars) < ENOUGH_STARS:
        from calibration.sources import detect_sources

        sources = detect_sources(exposure)
        stars = Stars.of(sources.assign(psfFlux=sources.apFlux))
    if exposure.psf is None:
        from calibration.psf.model import fit_psf

        exposure.psf = fit_psf(exposure, stars.table(), rules.characterize.psf_order).psf
    return stars


def _warped(science: Exposure, template: Exposure, rules: Instrument) -> Exposure:
    """Put the template on the pixels of the image, with a border for the kernel; its PSF is still to be measured there."""
    wcs = science.require_wcs()
    template.require_wcs()
    subtract_sky(template, rules)  # on its own pixels: noise that is to be measured must not be resampled yet
    x0, y0, width, height = science.bbox
    warped = warp_exposure(template, wcs, (x0 - BORDER, y0 - BORDER, width + 2 * BORDER, height + 2 * BORDER))
    warped.band = science.band
    if not warped.good().any():
        (ra, dec), (u, v) = (e.require_wcs().pixel_to_sky(e.width / 2, e.height / 2) for e in (science, template))
        raise NoTemplateCoverage(
            f"image and template have no pixel in common: by their WCS their middles lie at ({float(ra):.4f}, {float(dec):+.4f}) and "
            f"({float(u):.4f}, {float(v):+.4f}) deg; give a template of the same field"
        )
    return warped


def _registered(science: Exposure, template: Exposure, stars: Stars, rules: Instrument) -> Exposure:
    """Put the template on the pixels of the image by the stars that both have."""
    own = kernel_candidates(template, rules)
    x, y, u, v = stars.x, stars.y, own.x, own.y
    first, second = match_lists(x, y, u, v)
    x, y, u, v = x[first], y[first], u[second], v[second]
    displacement = fit_displacement(x, y, u - x, v - y, np.full(x.size, 0.05), science.bbox)
    template.wcs = science.wcs
    x0, y0, width, height = science.bbox
    moved = resampled(template, displacement, (x0 - BORDER, y0 - BORDER, width + 2 * BORDER, height + 2 * BORDER))
    moved.band, moved.psf = science.band, None  # its PSF is measured where it lies now
    return moved
