"""What the program makes of one frame by an instrument file, before a night is processed with it."""

from pathlib import Path
from typing import Any

import numpy as np

from calibration.noise import fill_variance, subtract_background
from calibration.psf.model import fit_psf
from calibration.psf.smoothing import UNDERSAMPLED_FWHM
from calibration.sources import detect_sources
from exposure import Exposure, Instrument
from exposure.header.cards import Cards
from exposure.io.native import open_fits, read_planes
from exposure.io.opening import split_choice
from service.frames.findings import Findings
from service.frames.header import check_detector, check_files, check_identity, check_wcs
from tasks.errors import AlertProdError

__all__ = ["check_frame"]

ANY = "generic"  # the instrument of `alertprod diff`, which takes what a file has
NIGHT_ONLY = ("mask", "variance", "weight", "psf", "exposure time, s", "midpoint, MJD TAI", "band")
FEW_GOOD, MANY_SAME = 0.5, 10


def check_frame(path: Path, rules: Instrument) -> Findings:
    """Return what is understood of a frame, what is missing and what is doubtful.

    Raises
    ------
    FitsUnreadable
        The file cannot be opened as FITS.
    """
    findings = Findings()
    with open_fits(path) as hdus:
        if "ALERTPRD" in hdus[0].header:
            findings.add("layout", "written by alertprod: planes, times and calibration are in the file")
        else:
            image_hdu = check_files(findings, hdus, rules, path)
            if image_hdu is None:
                return findings
            cards = Cards.of_hdus(hdus, image_hdu, split_choice(path)[0])
            check_identity(findings, cards, rules)
            check_detector(findings, cards, rules)
            size = [int(cards.value(k)) for k in ("NAXIS2", "NAXIS1") if k in cards]
            if len(size) == 2:
                check_wcs(findings, cards, rules, (size[0], size[1]))
    _check_pixels(findings, path, rules)
    if rules.name == ANY:
        findings.excuse(NIGHT_ONLY, "`alertprod diff` does without; for more, write an instrument file")
    elif findings.usable:
        try:
            Exposure.read_fits(path, rules)
        except AlertProdError as error:
            findings.lack("frame", f"{error.code}: {error}")
    return findings


def _check_pixels(findings: Findings, path: Path, rules: Instrument) -> None:
    try:
        exposure = read_planes(path, rules)
    except AlertProdError as error:
        findings.lack("pixels", f"{error.code}: {error}", "planes: {image: HDU, ...}")
        return
    findings.add("size, px", f"{exposure.width} x {exposure.height}")
    shares = {n: float(exposure.flagged(n).mean()) for n in ("NO_DATA", "SAT", "BAD")}
    good = np.isfinite(exposure.image) & ~exposure.flagged("NO_DATA", "SAT", "BAD")
    for name, share in shares.items():
        doubt = "less than half of the frame is left" if name == "NO_DATA" and share > FEW_GOOD else ""
        findings.add(f"share of {name}", f"{100 * share:.2f} %", "", doubt, "planes: {image: HDU}, bad_edge: 0")
    if not good.any():
        findings.lack("pixels", "no_good_pixels: none can be used", "planes, mask_bits, saturation, bad_pixels")
        return
    values = exposure.image[good]
    if rules.saturation is None:
        _check_top(findings, values)
    level = float(np.median(values))
    findings.add("sky level, counts", round(level, 3), "median of good pixels")
    if rules.name == ANY and not np.isfinite(exposure.variance).any():
        rules = rules.model_copy(update={"variance": "empirical"})
    _check_stars(findings, exposure, rules)


def _check_top(findings: Findings, values: "np.ndarray[Any, np.dtype[np.float32]]") -> None:
    """Many pixels at the largest value are a saturation level that nobody named."""
    top = float(values.max())
    same = int((values >= top * (1.0 - 1e-4)).sum())
    if top > 0 and same >= MANY_SAME:
        advice = f"saturation: {{constant: {0.95 * top:.4g}}}"
        findings.add("largest value, counts", top, f"of {same} pixels", "they look saturated", advice)


def _check_stars(findings: Findings, exposure: Exposure, rules: Instrument) -> None:
    try:
        rms = subtract_background(exposure, rules.characterize.background_mesh)
        findings.add(
            "noise of the sky, counts",
            round(float(np.median(rms)), 4),
            f"mesh of {rules.characterize.background_mesh} px",
        )
        if not np.isfinite(exposure.variance).any() or rules.variance != "plane":
            fill_variance(exposure, rms, rules)
        sources = detect_sources(exposure)
        findings.add("sources, stars", f"{len(sources)}, {int(sources.star.sum())}", "5 sigma")
        fit = fit_psf(exposure, sources, rules.characterize.psf_order)
    except AlertProdError as error:
        findings.lack(
            "FWHM of stars", f"{error.code}: {error}", "pixel_scale, gain, saturation", needed=exposure.psf is None
        )
        return
    arcsec = rules.pixel_scale or (float("nan") if exposure.wcs is None else exposure.pixel_scale_arcsec())
    thin = fit.fwhm < UNDERSAMPLED_FWHM and not rules.characterize.smoothing
    findings.add(
        "FWHM of stars, px",
        round(fit.fwhm, 3),
        f"{fit.n_stars} stars, {fit.fwhm * arcsec:.2f} arcsec",
        f"undersampled: fewer than {UNDERSAMPLED_FWHM} pixels per FWHM" if thin else "",
        "characterize: {smoothing: 0.8}",
    )
