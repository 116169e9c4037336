"""What a plain image lacks: variance, background, stars, PSF model, aperture correction, WCS correction, zero point."""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from calibration.astrometry import refine_wcs
from calibration.defects.mending import mend_bad_pixels
from calibration.defects.tracks import find_rays
from calibration.fringes import subtract_fringes
from calibration.lonely import are_scattered
from calibration.noise import fill_variance, subtract_background
from calibration.psf.model import PsfFit, fit_psf
from calibration.psf.smoothing import UNDERSAMPLED_FWHM, scale_to_flux_errors, smooth
from calibration.refcat import Matches, ReferenceStars, match_stars
from calibration.sources import detect_sources
from calibration.zeropoint import calibrate
from exposure import ApCorrMap, ChebyshevField, Exposure, Instrument, PhotoCalib
from exposure.apcorr import PSF_FLUX
from exposure.photocalib import AB_ZEROPOINT
from exposure.photometry import forced_psf_photometry
from tasks.arrays import nearest_pixels
from tasks.reprs import short_repr

__all__ = ["Characterized", "add_psf", "characterize", "flatten_calibration"]


@dataclass(frozen=True)
class Characterized:
    """An exposure that lacks nothing, its source table and the numbers of each step.

    ``sources`` has x, y, ra, dec, psfFlux, psfFluxErr (instrument units), snr, star, isolated, flagged.
    """

    exposure: Exposure
    sources: pd.DataFrame
    report: dict[str, float]

    __repr__ = short_repr


def characterize(exposure: Exposure, rules: Instrument, reference: ReferenceStars | None = None) -> Characterized:
    """Fill in, in place, whatever the exposure lacks; parts that the file gave are kept.

    Parameters
    ----------
    exposure
        As read.
    rules
        Its instrument.
    reference
        Reference stars, for ``relative`` or ``refcat`` zero points and ``relative`` astrometry.

    Raises
    ------
    BadPixels, TooFewStars, ZeropointFailed, WcsMissing
        With visit and detector.
    """
    exposure.require_wcs()
    rms = subtract_background(exposure, rules.characterize.background_mesh)
    if not np.isfinite(exposure.variance).any() or rules.variance != "plane":
        fill_variance(exposure, rms, rules)
    mended = mend_bad_pixels(exposure, rules)
    fringes = subtract_fringes(exposure, rules.characterize.background_mesh)
    sources = detect_sources(exposure)
    report = {"nMendedPixels": float(mended), "fringeRms": fringes, "nSkySteps": exposure.metadata["nSkySteps"]}
    sigma = rules.characterize.smoothing
    if sigma:
        if reference is not None:
            sources = _without_cosmic_rays(exposure, sources, reference, report)
        smooth(exposure, sigma)
    report |= {"nSources": float(len(sources)), "nStars": float(sources.star.sum())}
    if exposure.psf is None:
        report |= _psf_report(add_psf(exposure, sources, rules), rules)
    if sigma:
        report["smoothedVarianceFactor"] = scale_to_flux_errors(exposure, sigma)
    _measure(exposure, sources)
    if rules.characterize.astrometry == "relative" and reference is not None:
        stars = sources[sources.isolated & ~sources.flagged]
        exposure.wcs, numbers = refine_wcs(exposure, stars, reference)
        report |= numbers
    ra, dec = exposure.require_wcs().pixel_to_sky(sources.x.to_numpy(), sources.y.to_numpy())
    sources["ra"], sources["dec"] = ra, dec
    _calibrate(exposure, sources, rules, reference, report)
    exposure.sources = sources
    exposure.metadata.update(report)
    return Characterized(exposure, sources, report)


def add_psf(exposure: Exposure, sources: pd.DataFrame, rules: Instrument) -> PsfFit:
    """Give an exposure a PSF, and the aperture correction for light outside its stamp, as the fitted Moffat wings tell.

    Raises
    ------
    TooFewStars
        Too few of the sources are good stars.
    """
    fit = fit_psf(exposure, sources, rules.characterize.psf_order)
    exposure.psf = fit.psf
    exposure.ap_corr = ApCorrMap({PSF_FLUX: ChebyshevField.constant(1.0 / (1.0 - fit.wing_fraction), exposure.bbox)})
    return fit


def _psf_report(fit: PsfFit, rules: Instrument) -> dict[str, float]:
    """Return the numbers of a PSF fit for the metadata."""
    where = {"psfSizeErrorX": fit.misfit.x, "psfSizeErrorY": fit.misfit.y} if fit.misfit.error else {}
    return where | {
        "psfFwhm": fit.fwhm,
        "undersampled": _undersampled(fit.fwhm, rules),
        "psfHeldOutResidual": fit.held_out_residual,
        "psfHeldOutChi2": fit.held_out_chi2,
        "psfStars": float(fit.n_stars),
        "psfWingFraction": fit.wing_fraction,
        "psfStarEvidence": fit.star_evidence,
        "psfSizeError": fit.misfit.error,
        "psfFluxError": fit.flux_error,
    }


def _undersampled(fwhm: float, rules: Instrument) -> float:
    """Return 1 where stars are too narrow for the pixels, else 0; said aloud where nothing is done about it."""
    sigma = rules.characterize.smoothing
    narrow = fwhm**2 - (2.3548 * sigma) ** 2 < UNDERSAMPLED_FWHM**2
    if narrow and not sigma:
        logging.getLogger("alertprod.calibration").warning(
            "stars are %.1f px wide (FWHM), less than %.1f: light is aliased and subtractions leave residuals at bright "
            "stars; set characterize: {smoothing: 0.8} in the instrument file of %s",
            fwhm,
            UNDERSAMPLED_FWHM,
            rules.name,
        )
    return float(narrow)


def _without_cosmic_rays(
    exposure: Exposure, sources: pd.DataFrame, reference: ReferenceStars, report: dict[str, float]
) -> pd.DataFrame:
    """Mark cosmic rays, in place, while they are sharper than stars, and detect again: smoothed, they look like stars.

    Stars of the reference are spared, and tell what stars look like.
    """
    clean = sources[sources.isolated & ~sources.flagged].assign(psfFlux=sources.apFlux, psfFluxErr=1.0)
    wcs, _ = refine_wcs(exposure, clean, reference)
    x, y = wcs.sky_to_pixel(reference.table.ra.to_numpy(), reference.table.dec.to_numpy())
    stars = np.zeros(exposure.image.shape, np.bool_)
    inside = exposure.contains(x, y)
    ix, iy = (nearest_pixels(v[inside]) - o for v, o in zip((x, y), exposure.origin, strict=True))
    stars[np.clip(iy, 0, exposure.height - 1), np.clip(ix, 0, exposure.width - 1)] = True
    rays = find_rays(exposure, stars)
    exposure.set_plane("CR", rays)
    report["nCosmicRayPixels"] = float(rays.sum())
    return detect_sources(exposure) if rays.any() else sources


def _measure(exposure: Exposure, sources: pd.DataFrame) -> None:
    """Add psfFlux, psfFluxErr (image unit) and snr to the sources, with aperture correction."""
    fluxes = forced_psf_photometry(
        exposure.image,
        exposure.variance,
        exposure.require_psf(),
        sources.x,
        sources.y,
        origin=exposure.origin,
        bad=~exposure.good("BAD", "CR") if are_scattered(exposure) else None,
    )
    factor = None if exposure.ap_corr is None else exposure.ap_corr.at(PSF_FLUX, sources.x, sources.y)
    scale = 1.0 if factor is None else factor
    sources["psfFlux"] = fluxes.instFlux.to_numpy() * scale
    sources["psfFluxErr"] = fluxes.instFluxErr.to_numpy() * scale
    with np.errstate(invalid="ignore", divide="ignore"):
        sources["snr"] = sources.psfFlux / sources.psfFluxErr


def _calibrate(
    exposure: Exposure,
    sources: pd.DataFrame,
    rules: Instrument,
    reference: ReferenceStars | None,
    report: dict[str, float],
) -> None:
    if exposure.photo_calib is not None:
        return
    matches: Matches | None = None
    if reference is not None and rules.zeropoint in ("relative", "refcat"):
        good = sources[sources.isolated & ~sources.flagged & (sources.snr > 20)]
        matches = match_stars(exposure, good, reference, exposure.require_wcs(), radius=1.5)
        report["zeropointMatches"] = float(len(matches))
    exposure.photo_calib = calibrate(exposure, rules, matches)
    flatten_calibration(exposure, sources)
    report["zeropoint"] = AB_ZEROPOINT - 2.5 * float(np.log10(exposure.photo_calib.mean))


def flatten_calibration(exposure: Exposure, sources: pd.DataFrame) -> None:
    """Divide the variation of the calibration out of the pixels: a matching kernel has one sum for the whole image."""
    calib = exposure.photo_calib
    if calib is None or calib.variation is None:
        return
    x0, y0, width, height = exposure.bbox
    u, _ = calib.variation.scaled(x0 + np.arange(width), y0)
    _, v = calib.variation.scaled(x0, y0 + np.arange(height))
    field = np.polynomial.chebyshev.chebgrid2d(v, u, calib.variation.coefficients).astype(np.float32)
    exposure.image *= field
    exposure.variance *= field**2
    factor = calib.variation(sources.x, sources.y)
    sources["psfFlux"] *= factor
    sources["psfFluxErr"] *= factor
    exposure.photo_calib = PhotoCalib(calib.mean, calib.error, None, calib.source)
