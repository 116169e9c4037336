"""The stars of the image, looked for in the template: whether they are there, how bright, and how wide in both.

A template of another field, a mirrored one or one that lies some px off has light at other places. What the stars say
is known without any kernel, so that it can judge one.
"""

from dataclasses import dataclass

import numpy as np

from diffim.matching.registration import StarShifts, displacement_at_stars
from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.errors import PsfUndefined
from exposure.psf import FWHM_PER_SIGMA, Psf
from exposure.stamps import sided
from exposure.stars import Stars
from tasks.arrays import F32, F64, I64, Flags, nearest_pixels

__all__ = ["MOST", "CommonStars", "find_common_stars", "psf_error"]

FEW = 5  # stars that say nothing
MOST = 250  # that are looked for
MEASURED = 80  # the brightest, whose widths are measured
RING = (1.2, 1.5)  # radii of the ring that tells the level around a star, in units of the larger FWHM
RADIUS = 1.5  # of the apertures, in units of the larger FWHM
EXPECTED_SNR = 10.0  # in the template: fainter stars need not be found
HOLE = 0.8  # of the brightest pixel of a PSF
VAGUE = 0.15  # px: of stars whose places are known no better the light is enough
AS_WIDE = 0.05  # of its width: a source is as wide as a PSF
ALIKE = 3.0  # factor between flux ratios: more is another source


@dataclass(frozen=True)
class CommonStars:
    """Bright sources of the image and what the template has at their places.

    Parameters
    ----------
    n_expected, n_found
        How many should be there, and how many are.
    ratio
        Median of the counts in the image per count in the template; NaN where fewer than `FEW` are found.
    x, y
        Frame positions in the image of those found, shape (N,), px.
    ratios
        Their counts in the image per count in the template, shape (N,).
    star
        Which of them are unresolved, shape (N,).
    sizes
        Squares of their widths in image and template, shape (N, 2), px^2; NaN where not measured.
    shifts
        The shifts of the stars of which both centroids were found.
    """

    n_expected: int
    n_found: int
    ratio: float
    x: F64
    y: F64
    ratios: F64
    star: Flags
    sizes: F64
    shifts: StarShifts

    @property
    def share(self) -> float:
        """Fraction of the template's stars that is found again; NaN where too few are expected to tell."""
        return self.n_found / self.n_expected if self.n_expected >= FEW else float("nan")

    @property
    def width_ratio(self) -> float:
        """Median width (px) of a source in the template over that in the image, a ratio: galaxies are in both."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.sqrt(self.sizes[:, 1] / self.sizes[:, 0])
        ratio = ratio[np.isfinite(ratio)]
        return float(np.median(ratio)) if ratio.size >= FEW else float("nan")


def find_common_stars(
    science: Exposure,
    template: Exposure,
    stars: Stars,
    fwhms: tuple[float, float],
    unit_ratio: float | None = None,
) -> CommonStars:
    """Look for the stars of the image in the template.

    Parameters
    ----------
    stars
        Bright clean sources of the image; the first `MOST` are looked for.
    fwhms
        Of the PSFs of image and template, px.
    unit_ratio
        Counts of the image per count of the template by their calibrations, where both have one.
    """
    stars = stars.take(np.arange(min(len(stars), MOST)))
    shifts = displacement_at_stars(science, template, stars, fwhms[0])
    radius = max(RADIUS * max(fwhms), 2.0)
    x, y = stars.x.copy(), stars.y.copy()
    x[shifts.row], y[shifts.row] = shifts.x, shifts.y
    u, v = x.copy(), y.copy()
    u[shifts.row] += shifts.dx
    v[shifts.row] += shifts.dy
    own = _Apertures.of(science, x, y, radius, "SAT", "BAD")
    other = _Apertures.of(template, u, v, radius, "SAT_TEMPLATE", "BAD")
    seen = np.zeros(len(stars), np.bool_)
    seen[shifts.row] = True
    able = own.clean & other.clean & (own.flux > 0)
    lit = other.flux > 3 * other.error
    there = able & seen & lit
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = own.flux / other.flux
    ratio = _median(ratios[there], 1)
    reference = unit_ratio if unit_ratio and there.sum() < max(FEW, 0.3 * able.sum()) else ratio
    if np.isfinite(reference) and reference > 0:
        snr = own.flux / reference / np.maximum(other.error, 1e-30)
        able &= snr > EXPECTED_SNR
        # a faint wide star is seen, but not where; nor is a ring
        vague = any(_is_ring(e.require_psf()) for e in (science, template))
        there |= lit & (vague | (0.6 * max(fwhms) > VAGUE * snr))
    there &= able
    with np.errstate(divide="ignore", invalid="ignore"):
        there &= np.abs(np.log(ratios / ratio)) < np.log(ALIKE)
    rows = np.flatnonzero(there)
    return CommonStars(
        int(able.sum()),
        rows.size,
        _median(ratios[rows], FEW),
        x[rows],
        y[rows],
        ratios[rows],
        stars.star[rows],
        _sizes(own, other, fwhms, rows),
        shifts,
    )


def psf_error(common: CommonStars, psfs: tuple[Psf, Psf], which: int, fwhms: tuple[float, float]) -> float:
    """Return by what fraction stars are wider than the PSF model (negative: narrower); NaN where they are few.

    It is the quartile of the stars nearest to the model, 0 where the model lies between the two: neighbours that touch make
    some stars wide, a model that is not theirs all of them. Stars are those that the image knows, and, as an image whose PSF is
    wrong may take its stars for galaxies, those that are as wide as the PSF of the other image; the larger error counts.

    Parameters
    ----------
    psfs, fwhms
        PSFs of image and template, and their FWHM, px.
    which
        0 for the image, 1 for the template.
    """
    wider = _wider(common, psfs[which], which, fwhms)
    alike = np.abs(_wider(common, psfs[1 - which], 1 - which, fwhms)) < AS_WIDE
    errors = [_nearest_quartile(wider[chosen]) for chosen in (common.star, alike)]
    known = [e for e in errors if np.isfinite(e)]
    return max(known, key=abs) if known else float("nan")


def _wider(common: CommonStars, psf: Psf, which: int, fwhms: tuple[float, float]) -> F64:
    """Return by what fraction each source (N,) is wider than a PSF model there; NaN where that is not known."""
    out = np.full(common.x.size, np.nan)
    rows = np.flatnonzero(~np.isnan(common.sizes[:, which]))
    if not rows.size:
        return out
    x, y = common.x[rows], common.y[rows]
    try:
        model = sided(psf.image_at(x, y), 2 * int(RADIUS * max(fwhms) + 1) + 1)
    except PsfUndefined:  # in a gap of a coadd
        return out
    expected = _widths(model, x - nearest_pixels(x), y - nearest_pixels(y), fwhms[which], max(fwhms))
    with np.errstate(invalid="ignore", divide="ignore"):
        out[rows] = np.sqrt(common.sizes[rows, which] / expected) - 1
    return out


def _nearest_quartile(wider: F64) -> float:
    """Return the quartile that is nearest to zero, 0 where they are on both sides of it; NaN of few values."""
    wider = wider[~np.isnan(wider)]
    if wider.size < FEW:
        return float("nan")
    low, high = np.quantile(wider, [0.25, 0.75], method="nearest")
    return float(low if low > 0 else high if high < 0 else 0.0)


@dataclass(frozen=True)
class _Apertures:
    """Fluxes in circles, their errors, whether they hold no pixel that must not be used, (N,), and the stamps (N, S, S)."""

    flux: F64
    error: F64
    clean: Flags
    stamps: F32
    dx: F64
    dy: F64

    @classmethod
    def of(cls, exposure: Exposure, x: F64, y: F64, radius: float, *excluded: str) -> "_Apertures":
        ix, iy = nearest_pixels(x), nearest_pixels(y)
        side = 2 * int(radius + 1) + 1
        stamps, variances = MaskedImage.of(exposure, *excluded).stamps(ix, iy, side)
        dx, dy = x - ix, y - iy
        g = np.arange(side) - side // 2
        inside = (g - dx[:, None])[:, None, :] ** 2 + (g - dy[:, None])[:, :, None] ** 2 < radius**2
        good = np.isfinite(variances)
        flux = np.where(inside, stamps, 0).sum((1, 2), dtype=np.float64)
        error = np.sqrt(np.where(inside & good, variances, 0).sum((1, 2), dtype=np.float64))
        middle = slice(side // 2 - 1, side // 2 + 2)
        clean = good[:, middle, middle].all((1, 2)) & ((inside & ~good).sum((1, 2)) <= 0.1 * inside.sum((1, 2)))
        return cls(flux, error, clean & (error > 0), stamps, dx, dy)


def _sizes(own: _Apertures, other: _Apertures, fwhms: tuple[float, float], rows: I64) -> F64:
    """Return the squares of the widths (N, 2) of the brightest `MEASURED` of some rows in both images, NaN of the others."""
    out = np.full((rows.size, 2), np.nan)
    some = np.sort(np.argsort(-own.flux[rows], kind="stable")[:MEASURED])
    which = rows[some]
    for k, (apertures, fwhm) in enumerate(zip((own, other), fwhms, strict=True)):
        out[some, k] = _widths(apertures.stamps[which], apertures.dx[which], apertures.dy[which], fwhm, max(fwhms))
    return out


def _widths(stamps: F32, dx: F64, dy: F64, fwhm: float, largest: float) -> F64:
    """Return the squares of the widths (N,) of stars, px^2; infinite where they are flatter than can be told.

    The weight is a Gaussian of the PSF's width `fwhm`, and the level is that of a ring around it, so that neighbours matter
    little; the variance of a Gaussian of which it would see as much is returned.
    """
    width = (fwhm / FWHM_PER_SIGMA) ** 2
    g = np.arange(stamps.shape[-1]) - stamps.shape[-1] // 2
    square = ((g - dy[:, None]) ** 2)[:, :, None] + ((g - dx[:, None]) ** 2)[:, None, :]
    ring = (square > (RING[0] * largest) ** 2) & (square <= (RING[1] * largest) ** 2)
    level = np.nanmedian(np.where(ring, stamps, np.nan), axis=(1, 2))
    light = (stamps - level[:, None, None]) * np.exp(-0.5 * square / width) * (square <= (RING[1] * largest) ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = 0.5 * (light * square).sum((1, 2)) / light.sum((1, 2))  # 1 / (1 / width + 1 / that of the star)
        out = 1 / (1 / np.where(seen > 0, seen, np.nan) - 1 / width)
    return np.where(out > 0, out, np.inf)


def _is_ring(psf: Psf) -> bool:
    """Whether a PSF has a hole in its middle, as an image out of focus."""
    try:
        stamp = psf.kernel_at(*psf.average_position())[0]
    except PsfUndefined:
        return False
    middle = stamp.shape[-1] // 2
    return bool(stamp[middle - 1 : middle + 2, middle - 1 : middle + 2].max() < HOLE * stamp.max())


def _median(values: F64, least: int) -> float:
    return float(np.median(values)) if values.size >= least else float("nan")
