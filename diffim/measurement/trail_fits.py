"""Long footprints: one line or as many points as there are peaks, whichever the evidence is for.

What moves or streaks across the image is a line convolved with the PSF. Its noise has one peak or several, all in one footprint; where a
line explains that footprint better than as many points, it is one source, and is fitted once: a point that is fitted to a line can
lie anywhere along it.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import correlate1d

from diffim.detection.peaks import TRAIL_COLUMNS, Detections
from diffim.measurement.dipole_errors import covariance_through, images_behind
from diffim.measurement.trails import LONGEST, STEP
from exposure import Exposure
from exposure.photometry import position_basis, psf_images
from exposure.photon_noise import MODEL
from exposure.psf import FWHM_PER_SIGMA, fwhm_of
from exposure.stamps import add_stamps, shift_stamps
from tasks.arrays import F32, F64, I64, Flags, nearest_pixels

__all__ = ["Behind", "merge_trails"]

LEAST_LENGTH = 2.0  # FWHM
ELONGATED = 2.0  # ratio of the two second moments of a footprint, at least: the wings of what is bright make it rounder
MOST_PEAKS = 40
ITERATIONS, POINT_ITERATIONS = 25, 6
SLOPE = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60  # of sixth order: three pixels say too little of a PSF of two
MARGIN = 2.0  # FWHM around a footprint that are fitted too


@dataclass(frozen=True)
class _Cut:
    """The pixels around a footprint: difference, variance, which count, and the array position of the first."""

    image: F64
    variance: F64
    use: Flags
    x0: int
    y0: int

    def chi2(self, model: F64) -> float:
        """Return chi^2 of a model (height, width)."""
        return float((((self.image - model) ** 2 / self.variance)[self.use]).sum())


@dataclass(frozen=True)
class Behind:
    """The two images behind a difference; `unit` times the template is in counts of the difference."""

    science: Exposure
    template: Exposure
    unit: float


def merge_trails(difference: Exposure, detections: Detections, behind: Behind | None = None) -> Detections:
    """Return detections in which the peaks of a trail are one, with what the fit of its line says (`TRAIL_COLUMNS`).

    Errors are those of the noise of the images `behind` through the filters that made the difference
    (`diffim.measurement.dipole_errors`); without them, of the difference's variance plane. Models are compared by Schwarz's
    criterion, chi^2 + parameters ln(pixels): five of a line, three of each point.
    """
    fitted = np.full((len(detections.x), len(TRAIL_COLUMNS)), np.nan)
    keep = np.ones(len(detections.x), np.bool_)
    fwhm = _fwhm(difference, detections)
    for rows, start in _candidates(
        difference, detections, fwhm
    ):  # each is a fit of its own; there are a handful in an image
        line = _line(difference, detections, rows, start, float(fwhm[rows[0]]), behind)
        if line is not None:
            keep[rows[1:]] = False
            fitted[rows[0]] = line
    if np.isnan(fitted).all():
        return detections
    return replace(detections, trail=fitted).take(keep)


def _candidates(difference: Exposure, detections: Detections, fwhm: F64) -> list[tuple[I64, F64]]:
    """Return the rows, strongest first, of each footprint with peaks of one sign that is long enough for a trail, and its guess."""
    value = detections.significance
    long = (
        ~detections.is_sky & (detections.label > 0) & (detections.boxes[:, 2:].max(1, initial=0) > LEAST_LENGTH * fwhm)
    )
    rows = np.flatnonzero(long)
    rows = rows[np.lexsort((-np.abs(value[rows]), detections.label[rows]))]
    labels, first, counts = np.unique(detections.label[rows], return_index=True, return_counts=True)
    if not labels.size:
        return []
    up = np.add.reduceat((value[rows] > 0).astype(np.int64), first)
    guesses = _guesses(difference, detections, rows[first], fwhm[rows[first]])
    chosen = (counts <= MOST_PEAKS) & ((up == 0) | (up == counts)) & np.isfinite(guesses[:, 0])
    return [(rows[first[k] : first[k] + counts[k]], guesses[k]) for k in np.flatnonzero(chosen)]


def _fwhm(difference: Exposure, detections: Detections) -> F64:
    """Return the FWHM (N,) of the PSF at all peaks, px."""
    x, y = (a.astype(np.float64) + o for a, o in zip((detections.x, detections.y), difference.origin, strict=True))
    return fwhm_of(difference.require_psf().moments_at(x, y)) if x.size else x


def _line(
    difference: Exposure, detections: Detections, rows: I64, start: F64, fwhm: float, behind: Behind | None
) -> F64 | None:
    """Return the columns of a fitted line where it explains a footprint better than its peaks as points do, else None."""
    cut = _cut(difference, detections, rows[0], int(np.ceil(MARGIN * fwhm)))
    sign = float(np.sign(detections.significance[rows[0]]))
    middle = start[:2] + np.array(difference.origin)
    stamp = difference.require_psf().kernel_at(*middle)[0]
    fit = _fit_line(cut, stamp, start, difference, behind)
    if fit is None:
        return None
    if not (
        LEAST_LENGTH * fwhm < fit[TRAIL_COLUMNS.index("length")] < LONGEST
        and sign * fit[TRAIL_COLUMNS.index("flux")] > 0
    ):
        return None
    points = _points_chi2(difference, cut, detections.x[rows], detections.y[rows])
    penalty = np.log(max(int(cut.use.sum()), 2))
    if not fit[TRAIL_COLUMNS.index("chi2")] + 5 * penalty < points + 3 * rows.size * penalty:
        return None
    fit[:2] += difference.origin
    return fit


def _cut(difference: Exposure, detections: Detections, row: int, margin: int) -> _Cut:
    """Return the pixels of a footprint's box and `margin` px around, without those of other footprints."""
    bx, by, width, height = detections.boxes[row]
    x0, y0 = max(bx - margin, 0), max(by - margin, 0)
    part = (
        slice(y0, min(by + height + margin, difference.height)),
        slice(x0, min(bx + width + margin, difference.width)),
    )
    other = (detections.labels[part] != 0) & (detections.labels[part] != detections.label[row])
    use = difference.good("BAD", "CR", "EDGE")[part] & ~other
    image, variance = (
        np.where(use, a[part], fill).astype(np.float64) for a, fill in ((difference.image, 0), (difference.variance, 1))
    )
    return _Cut(image, variance, use, int(x0), int(y0))


def _guesses(difference: Exposure, detections: Detections, rows: I64, fwhm: F64) -> F64:
    """Return x, y (array px), length, angle (N, 4) of the lines that have the second moments of footprints; NaN: it is round.

    `rows` (N,) are their strongest peaks, whose labels rise, and `fwhm` (N,) is that of the PSF there.
    """
    which = np.full(int(detections.labels.max()) + 1, -1, np.int64)
    which[detections.label[rows]] = np.arange(rows.size)
    v, u = np.nonzero((detections.labels > 0) & difference.good("BAD", "CR", "EDGE"))
    inside = which[detections.labels[v, u]] >= 0
    v, u = v[inside], u[inside]
    k = which[detections.labels[v, u]]
    light = np.maximum(np.sign(detections.significance[rows])[k] * difference.image[v, u].astype(np.float64), 0)

    def mean(values: F64) -> F64:
        return np.bincount(k, light * values, rows.size) / total

    total = np.bincount(k, light, rows.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = mean(u.astype(np.float64)), mean(v.astype(np.float64))
        du, dv = u - x[k], v - y[k]
        xx, yy, xy = mean(du**2), mean(dv**2), mean(du * dv)
        root = np.hypot(0.5 * (xx - yy), xy)
        large, small = 0.5 * (xx + yy) + root, np.maximum(0.5 * (xx + yy) - root, 1e-6)
        length = np.sqrt(12 * np.maximum(large - (fwhm / FWHM_PER_SIGMA) ** 2, 1.0))
        elongated = (total > 0) & (large >= ELONGATED * small)
    out = np.stack([x, y, length, 0.5 * np.arctan2(2 * xy, xx - yy)], axis=1)
    return np.where(elongated[:, None], out, np.nan)


def _line_basis(cut: _Cut, stamp: F32, p: F64) -> F64:
    """Return the line of flux 1 convolved with the PSF and its derivatives by x, y, length and angle, shape (5, height, width).

    Its points are moved once. They stand for the line and for its first moment along itself, of which the derivative by the
    angle is the slope across; the derivative by the length is that of two points more, the ends.
    """
    n = max(int(np.ceil(p[2] / STEP)), 1)
    c, s = np.cos(p[3]), np.sin(p[3])
    along = np.append(((np.arange(n) + 0.5) / n - 0.5) * p[2], [-0.5 * p[2], 0.5 * p[2]])
    x, y = p[0] + along * c, p[1] + along * s
    cx, cy = nearest_pixels(x), nearest_pixels(y)
    moved = np.empty((x.size, *stamp.shape), np.float32)
    shift_stamps(np.broadcast_to(stamp, moved.shape), x - cx, y - cy, moved)
    line = np.append(np.full(n, 1 / n), [0.0, 0.0])
    parts = np.zeros((3, *cut.image.shape))
    for part, factor in zip(parts, (line, line * along, np.append(np.zeros(n), [0.5, 0.5])), strict=True):
        used = np.flatnonzero(factor)
        add_stamps(part, moved[used], cx[used] - cut.x0, cy[used] - cut.y0, factor[used])
    model, moment, ends = parts
    dx, dy = (correlate1d(model, SLOPE, axis=axis, mode="constant") for axis in (1, 0))
    moment_dx, moment_dy = (correlate1d(moment, SLOPE, axis=axis, mode="constant") for axis in (1, 0))
    return np.stack([model, -dx, -dy, (ends - model) / p[2], s * moment_dx - c * moment_dy])


def _converged(cut: _Cut, stamp: F32, start: F64) -> F64 | None:
    """Return x, y, length and angle where Gauss and Newton's steps end; None where they run away or do not end.

    A line that leaves its footprint, or is longer than the pixels that are fitted, will not come back. Where a step goes
    back on the one before, half of it is gone.
    """
    use, last = cut.use, np.zeros(4)
    p: F64 = start.copy()
    pixels, longest = cut.image[use], np.hypot(*use.shape)
    for _ in range(ITERATIONS):
        basis = _line_basis(cut, stamp, p)[:, use]
        solution = np.linalg.lstsq(basis.T, pixels, rcond=1e-8)[0]
        if not np.isfinite(solution[0]) or solution[0] == 0:
            return None
        limits = np.array([2.0, 2.0, 0.25 * p[2], 2.0 / p[2]])
        step = np.clip(solution[1:] / solution[0] / limits, -1, 1)
        last = 0.5 * step if step @ last < 0 else step
        p = p + last * limits
        p[2] = max(p[2], 1.0)
        if p[2] > min(longest, LONGEST + 1) or np.hypot(*(p[:2] - start[:2])) > 0.5 * start[2] + 3:
            return None
        if np.abs(last * limits)[:3].max() < 1e-3:
            return p
    return None  # noise without a line: where such a fit stands in the end, the last digit decides


def _fit_line(cut: _Cut, stamp: F32, start: F64, difference: Exposure, behind: Behind | None) -> F64 | None:
    """Return the columns of a line fitted with uniform weights (in the order of `TRAIL_COLUMNS`; array px), None where it runs away or does not end."""
    use, pixels = cut.use, cut.image[cut.use]
    p = _converged(cut, stamp, start)
    if p is None:
        return None
    images = _line_basis(cut, stamp, p)
    basis = images[:, use]
    normal = np.linalg.pinv(basis @ basis.T, hermitian=True)
    weights = normal @ basis
    flux = float((weights @ pixels)[0])
    covariance = _covariance(cut, weights, difference, behind)
    position_covariance = covariance[1:3, 1:3] / flux**2
    chi2 = cut.chi2(flux * images[0])
    angle = (p[3] + np.pi / 2) % np.pi - np.pi / 2
    noise = getattr(difference.psf, "photon_noise", None)
    by_model = (
        0.0 if noise is None else float(noise.at(p[0] + difference.origin[0], p[1] + difference.origin[1])[0, 0, MODEL])
    )
    errors = np.sqrt([position_covariance[0, 0], position_covariance[1, 1], covariance[0, 0] + by_model * flux**2])
    shape_errors = np.sqrt(covariance[[3, 4], [3, 4]]) / abs(flux)
    position = [p[0], p[1], errors[0], errors[1], position_covariance[0, 1]]
    return np.array([*position, p[2], angle, flux, errors[2], chi2, use.sum(), *shape_errors])


def _covariance(cut: _Cut, weights: F64, difference: Exposure, behind: Behind | None) -> F64:
    """Return the covariance (K, K) of estimates with weights (K, pixels used) on the pixels of a cut."""
    plain = np.asarray((weights * cut.variance[cut.use]) @ weights.T)
    if behind is None:
        return plain
    height, width = cut.image.shape
    side = max(height, width) | 1
    square = np.zeros((len(weights), side, side))
    square[:, :height, :width][:, cut.use] = weights
    x, y = (np.array([c + o + side // 2]) for c, o in zip((cut.x0, cut.y0), difference.origin, strict=True))
    images = images_behind(difference, behind.science, behind.template, behind.unit, (x, y), side)
    if images is None:
        return plain
    flat = square.reshape(1, len(weights), -1)
    return np.asarray(covariance_through([flat, np.zeros_like(flat), np.zeros_like(flat)], images, side)[0])


def _points_chi2(difference: Exposure, cut: _Cut, px: I64, py: I64) -> float:
    """Return chi^2 of point sources at peaks (array px) whose fluxes and positions are fitted together."""
    x, y = px.astype(np.float64), py.astype(np.float64)
    x0, y0 = difference.origin
    weight = 1 / np.sqrt(cut.variance[cut.use])
    model = np.zeros(cut.image.shape)
    for _ in range(POINT_ITERATIONS):
        stamps = psf_images(difference.require_psf(), x + x0, y + y0)
        cx, cy = nearest_pixels(x) - cut.x0, nearest_pixels(y) - cut.y0
        parts = position_basis(stamps, stamps.shape[-1])
        design = np.zeros((3, x.size, *cut.image.shape))
        for k in range(3):
            for n in range(x.size):
                row = slice(n, n + 1)
                add_stamps(design[k, n], parts[k, row], cx[row], cy[row], np.ones(1))
        flat = design[:, :, cut.use].reshape(3 * x.size, -1) * weight
        solution = np.linalg.lstsq(flat.T, cut.image[cut.use] * weight, rcond=1e-6)[0].reshape(3, x.size)
        model = np.einsum("kn,knji->ji", solution, design)
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.clip(np.nan_to_num(solution[1:] / solution[0]), -0.7, 0.7)
        x, y = np.clip(x + step[0], px - 3, px + 3), np.clip(y + step[1], py - 3, py + 3)
    return cut.chi2(model)
