"""Pictures of a joint fit: residuals over the focal plane, their histograms, chi2 by step, repeatability."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from calibration.joint.io.image_pictures import draw_images
from calibration.joint.result import AstrometryHalf, JointResult, PhotometryHalf, residuals
from exposure.photocalib import AB_ZEROPOINT
from exposure.quantiles import scatter
from tasks.arrays import F64, Flags

__all__ = ["draw"]

_CELLS = 24


def draw(result: JointResult, folder: Path) -> list[Path]:
    """Draw what there is into PNG files.

    Returns
    -------
    paths
        ``residuals.png`` (quiver over the focal plane and histograms), ``chi2.png``, ``repeatability.png``, and image by image
        ``astrometry_images.png``, ``photometry_images.png``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    if result.astrometry is not None:
        out.append(_residual_picture(result.astrometry, folder / "residuals.png"))
    out.append(_chi2_picture(result, folder / "chi2.png"))
    if result.photometry is not None:
        out.append(_repeatability_picture(result.photometry, folder / "repeatability.png"))
    units = {"astrometry": (1e3, "mas")}
    if result.photometry is not None:
        units["photometry"] = (1e3, "mmag") if result.photometry.problem.layout.magnitude else (1.0, "nJy")
    for half, unit in units.items():
        if getattr(result, half) is not None:
            path = folder / f"{half}_images.png"
            out.append(draw_images(half, result.image_quality, result.images, unit, path))
    return out


def _figure(width: float, columns: int = 1, **margins: float) -> tuple[Any, Any]:
    """A figure of the object interface: no global state, and no window system is looked for."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 5.6))
    axes = figure.subplots(1, columns)
    figure.subplots_adjust(**({"left": 0.07, "right": 0.97, "bottom": 0.13, "top": 0.92, "wspace": 0.25} | margins))
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=100)
    return path


def _residual_picture(half: AstrometryHalf, path: Path) -> Path:
    problem = half.problem
    residual = 1e3 * residuals(problem)[0]
    kept = problem.kept
    figure, (left, right) = _figure(13, 2)
    x, y, dx, dy, n = _binned(_focal_positions(half)[kept], residual[kept])
    good = n >= 5
    arrows = left.quiver(x[good], y[good], dx[good], dy[good], np.hypot(dx, dy)[good], angles="xy", cmap="viridis")
    size = float(np.percentile(np.hypot(dx, dy)[good], 90)) if good.any() else 1.0
    left.quiverkey(arrows, 0.9, -0.12, max(size, 1e-3), f"{size:.2f} mas", labelpos="E")
    unit = "mm" if problem.layout.n_inner else "scaled pixels"
    left.set(
        title="Mean residual, measurement minus star",
        xlabel=f"focal plane X [{unit}]",
        ylabel=f"Y [{unit}]",
        aspect="equal",
    )
    figure.colorbar(arrows, ax=left, label="mas", shrink=0.7)
    _histograms(right, residual, kept)
    return _save(figure, path)


def _focal_positions(half: AstrometryHalf) -> F64:
    """Return where measurements (N, 2) lie on the focal plane, mm; in scaled pixels without chip maps."""
    problem = half.problem
    layout, image = problem.layout, problem.image
    u = (problem.x - layout.centre[image, 0]) / layout.half[image, 0]
    v = (problem.y - layout.centre[image, 1]) / layout.half[image, 1]
    out = np.stack([u, v], 1)
    for chip in range(layout.n_inner):
        on_chip = layout.inner[image] == chip
        out[on_chip] = half.builder.focal(chip, u[on_chip], v[on_chip]) * half.builder.scale_mm
    return out


def _histograms(axes: Any, residual: F64, kept: Flags) -> None:
    """Draw the residuals (N, 2), mas, of the kept measurements."""
    reach = float(np.percentile(np.abs(residual[kept]), 99)) if kept.any() else 1.0
    bins = np.linspace(-reach, reach, 61)
    for axis, name in enumerate(("east", "north")):
        values = residual[kept, axis]
        axes.hist(values, bins, histtype="step", lw=1.6, label=f"{name}: MAD sigma {scatter(values):.2f} mas")
    axes.set(
        title=f"{int(kept.sum())} measurements kept, {int((~kept).sum())} rejected",
        xlabel="residual [mas]",
        ylabel="number",
    )
    axes.margins(y=0.2)
    axes.legend(frameon=False, loc="upper left")


def _binned(positions: F64, residual: F64) -> tuple[F64, F64, F64, F64, F64]:
    """Return middle (x, y), mean residual (dx, dy) and number of measurements of each cell over positions (N, 2)."""
    low, high = positions.min(0), positions.max(0)
    cell = np.clip(((positions - low) / np.maximum(high - low, 1e-12) * _CELLS).astype(int), 0, _CELLS - 1)
    flat = cell[:, 0] * _CELLS + cell[:, 1]
    n = np.bincount(flat, minlength=_CELLS**2)
    with np.errstate(invalid="ignore"):
        dx, dy = (np.bincount(flat, residual[:, k], _CELLS**2) / n for k in range(2))
    cells = np.arange(_CELLS**2)
    x = low[0] + (cells // _CELLS + 0.5) / _CELLS * (high[0] - low[0])
    y = low[1] + (cells % _CELLS + 0.5) / _CELLS * (high[1] - low[1])
    return x, y, np.nan_to_num(dx), np.nan_to_num(dy), n.astype(np.float64)


def _chi2_picture(result: JointResult, path: Path) -> Path:
    figure, axes = _figure(8, left=0.11)
    for name in ("astrometry", "photometry"):
        half = getattr(result, name)
        if half is None:
            continue
        values = [c / max(n, 1) for _, c, n in half.report.history]
        axes.semilogy(values, "o-", label=f"{name}: {values[-1]:.3f} at the end")
        for k, (label, _, _) in enumerate(half.report.history):
            if label.startswith("Fit iteration"):
                continue
            axes.annotate(label, (k, values[k]), fontsize=7, rotation=35, xytext=(3, 4), textcoords="offset points")
    axes.axhline(1.0, color="0.6", lw=0.8)
    axes.margins(x=0.12, y=0.15)
    axes.set(title="chi2 per degree of freedom", xlabel="step", ylabel="chi2 / ndof")
    axes.legend(frameon=False)
    return _save(figure, path)


def _repeatability_picture(half: PhotometryHalf, path: Path) -> Path:
    problem = half.problem
    residual, count = residuals(problem)
    value = problem.stars.value[problem.star_index, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        mag = value if problem.layout.magnitude else AB_ZEROPOINT - 2.5 * np.log10(value)
        off = residual[:, 0] if problem.layout.magnitude else 1.0857 * residual[:, 0] / value
    index, _ = half.associated.stars.measurements_of(half.which)
    use = problem.kept & (count >= 2) & np.isfinite(mag) & np.isfinite(off)
    off = 1e3 * off * np.sqrt(count / np.maximum(count - 1, 1))
    figure, axes = _figure(8, left=0.11)
    axes.plot(mag[use], np.maximum(np.abs(off[use]), 1e-2), ",", color="0.6", rasterized=True)
    if use.any():
        edges = np.linspace(np.percentile(mag[use], 0.5), np.percentile(mag[use], 99.5), 16)
        middle, measured, expected = [], [], []
        error = 1085.7 * half.associated.measurements.flux_err[index] / half.associated.measurements.flux[index]
        for a, b in pairwise(edges):
            of = use & (mag >= a) & (mag < b)
            if of.sum() >= 20:
                middle.append((a + b) / 2)
                measured.append(1.4826 * np.median(np.abs(off[of])))
                expected.append(np.median(error[of]))
        axes.plot(middle, measured, "o-", label="measured (MAD sigma)")
        axes.plot(middle, expected, "--", label="expected from flux errors")
    axes.set(title="Repeatability of fluxes", xlabel="AB magnitude of the star", ylabel="residual [mmag]", yscale="log")
    axes.legend(frameon=False)
    return _save(figure, path)
