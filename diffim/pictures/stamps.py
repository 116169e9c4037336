"""Stamps in rows: sources as image, template and difference; kernel stars; dipoles."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffim.pictures.blocks import block_mean, block_significance, block_size, seeing_of
from diffim.pictures.masks import binned_kinds, legend_handles, painted
from exposure import Exposure
from exposure.mask import plane_bits
from exposure.stamps import gather
from tasks.arrays import F32, F64, nearest_pixels

if TYPE_CHECKING:
    from diffim.pictures.difference_pages import Subject

__all__ = ["draw_dipoles", "draw_sources", "draw_stars", "stretched"]

STARS_SHOWN, DIPOLES_SHOWN, SIDE = 12, 8, 31
ACROSS, ROWS = 3, 8  # triplets on the page of sources
SOFT, DARKEST = 2.0, -3.0  # sigma: where the scale turns from linear to logarithmic; what is black
OFF = plane_bits(["NO_DATA"])


def stretched(stamps: F32, sigma: F64, top: F64) -> F32:
    """Return stamps (N, S, S) on an asinh scale from 0 (-3 sigma) to 1 (`top` sigma), sigma and top of shape (N,)."""
    with np.errstate(invalid="ignore"):
        z = np.clip(stamps / sigma[:, None, None], DARKEST, top[:, None, None])
        low = np.arcsinh(DARKEST / SOFT)
        return np.asarray((np.arcsinh(z / SOFT) - low) / (np.arcsinh(top / SOFT) - low)[:, None, None], np.float32)


class _Stamps:
    """Stamps (N, S, S) of the three images and the kinds of their masked pixels, around places in the frame.

    S counts blocks of `step` x `step` px: single pixels, but where the PSF is wide.
    """

    def __init__(self, subject: "Subject", x: F64, y: F64, side: int = SIDE) -> None:
        d = subject.difference
        self.step, self.side = block_size(d), side
        self._x, self._y = (nearest_pixels(v) for v in (x, y))
        cut = self._x - d.origin[0], self._y - d.origin[1], self.side * self.step
        noise = np.sqrt(gather(d.variance, *cut, np.nan).astype(np.float64))
        own = d if subject.science is None else subject.science
        matched = np.full(d.image.shape, np.nan, np.float32) if subject.matched is None else subject.matched
        images = [gather(np.ascontiguousarray(a, np.float32), *cut, np.nan) for a in (own.image, matched, d.image)]
        masks = [gather(own.mask, *cut, OFF), *[gather(d.mask, *cut, OFF)] * 2]
        masks[1] = masks[1] & plane_bits(["NO_DATA", "SAT_TEMPLATE"])
        self.kinds = [
            self._blocks(binned_kinds, np.where(np.isfinite(a), m, OFF)) for a, m in zip(images, masks, strict=True)
        ]
        sky = own.variance if subject.science is not None else d.variance
        with np.errstate(invalid="ignore", divide="ignore"):
            sky_noise = np.sqrt(np.maximum(gather(sky, *cut, np.nan), 0)).reshape(len(x), -1) / self.step
            sigma = _usual(sky_noise.astype(np.float64))
            self.z = self._blocks(block_significance, (images[2] / noise).astype(np.float32))
        shown = [self._blocks(block_mean, a) for a in images[:2]]
        brightest = [np.where(k < 0, a, np.nan) / sigma[:, None, None] for a, k in zip(shown, self.kinds, strict=False)]
        top = np.maximum(_largest(brightest), 10.0)
        self.science, self.template = (stretched(a, sigma, top) for a in shown)
        self.limit = np.maximum(_largest([np.abs(np.where(self.kinds[2] < 0, self.z, np.nan))]), 5.0)

    def _blocks(self, binned: Any, stamps: Any) -> Any:
        """Return stamps (N, S * step, S * step) in blocks (N, S, S): one above the other they are one image."""
        return binned(stamps.reshape(-1, stamps.shape[2]), self.step).reshape(len(stamps), self.side, self.side)

    def place(self, k: int, x: float, y: float) -> tuple[float, float]:
        """Return where a place in the frame lies in the k-th stamp (blocks)."""
        return (x - self._x[k]) / self.step + self.side // 2, (y - self._y[k]) / self.step + self.side // 2


def _usual(values: F64) -> F64:
    """Return the median of each row's finite values; 1 where there are none."""
    positive = np.isfinite(values) & (values > 0)
    ordered = np.sort(np.where(positive, values, np.inf), axis=1)
    middle = ordered[np.arange(len(values)), np.maximum(positive.sum(1) - 1, 0) // 2]
    return np.where(np.isfinite(middle), middle, 1.0)


def _largest(stamps: list[Any]) -> F64:
    """Return the largest finite value of each of several stamps (N, S, S) taken together, 0 where there is none."""
    flat = np.concatenate([s.reshape(len(s), -1) for s in stamps], axis=1).astype(np.float64)
    return np.asarray(np.max(np.where(np.isfinite(flat), flat, 0), axis=1, initial=0))


def _show(cell: Any, stamp: F32, kinds: NDArray[np.int8], low: float, high: float, colours: str = "gray") -> None:
    cell.imshow(stamp, origin="lower", cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    cell.imshow(painted(kinds), origin="lower", interpolation="nearest")
    cell.set(xticks=[], yticks=[])


def draw_sources(plt: Any, subject: "Subject", path: Path) -> None:
    """Draw a page of the sources, the most reliable first: image, matched template, difference."""
    sources = subject.require_sources()
    table = sources[~sources.sky_source] if "sky_source" in sources else sources
    shown = _in_order(table).head(ACROSS * ROWS)
    x, y = shown.x.to_numpy(np.float64), shown.y.to_numpy(np.float64)
    stamps = _Stamps(subject, x, y, _side(subject.difference))
    rows = -(-len(shown) // ACROSS)
    size, gap, between, label, head, foot = 1.2, 0.04, 0.4, 0.42, 0.75, 1.15
    wide = ACROSS * (3 * size + 2 * gap) + (ACROSS + 1) * between
    high = head + rows * (size + label) + foot
    figure = plt.figure(figsize=(wide, high))
    words = _labels(shown, subject.difference)
    for k in range(len(shown)):
        left = between + k % ACROSS * (3 * size + 2 * gap + between)
        low = high - head - (k // ACROSS + 1) * (size + label)
        cells = [
            figure.add_axes(((left + j * (size + gap)) / wide, low / high, size / wide, size / high)) for j in range(3)
        ]
        limit = float(stamps.limit[k])
        _show(cells[0], stamps.science[k], stamps.kinds[0][k], 0, 1)
        _show(cells[1], stamps.template[k], stamps.kinds[1][k], 0, 1)
        _show(cells[2], stamps.z[k], stamps.kinds[2][k], -limit, limit)
        _point_out(cells[2], *stamps.place(k, x[k], y[k]), stamps.side)
        figure.text(left / wide, (low + size + 0.04) / high, words[k], fontsize=7.5, va="bottom", linespacing=1.25)
        if k < ACROSS:
            for j, name in enumerate(("image", "template", "difference")):
                middle = (left + j * (size + gap) + size / 2) / wide
                figure.text(
                    middle, (high - head + 0.02) / high, name, ha="center", va="bottom", fontsize=9, color="0.35"
                )
    order = ", the most reliable first" if "reliability" in table else ", the most significant first"
    count = f"{len(shown)} of {len(table)} sources shown{order}"
    figure.text(0.5, (high - 0.12) / high, count, ha="center", va="top", fontsize=12)
    _foot(figure, subject.difference, stamps, (wide, high, foot))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return the most reliable sources first; those that are equally reliable to 0.01 by their significance."""
    sure = np.round(table.reliability, 2) if "reliability" in table else np.zeros(len(table))
    return table.iloc[np.lexsort((-table.significance.to_numpy(np.float64), -np.asarray(sure, np.float64)))]


def _side(difference: Exposure) -> int:
    """Return the side of the stamps in blocks: eight times the seeing, within limits."""
    fwhm = seeing_of(difference) / block_size(difference)
    return int(np.clip(8 * fwhm, SIDE, 81)) | 1 if np.isfinite(fwhm) else SIDE


def _labels(shown: pd.DataFrame, difference: Exposure) -> list[str]:
    """Return two lines for each source: number, S/N, reliability and kind; position."""
    x, y = shown.x.to_numpy(np.float64), shown.y.to_numpy(np.float64)
    where = [f"x {a:.1f}  y {b:.1f}" for a, b in zip(x, y, strict=True)]
    if difference.wcs is not None and len(shown):
        ra, dec = difference.wcs.pixel_to_sky(x, y)
        where = [f"{a:.5f} {b:+.5f} deg   {text}" for a, b, text in zip(ra, dec, where, strict=True)]
    sure = shown.reliability if "reliability" in shown else np.full(len(shown), np.nan)
    columns = (shown["id"], shown.significance, sure, shown.isNegative, shown.isDipole, where)
    out = []
    for number, snr, score, fainter, dipole, position in zip(*columns, strict=True):
        kind = "   dipole" if dipole else "   fainter" if fainter else ""
        out.append(
            f"#{number}   S/N {snr:.1f}"
            + ("" if np.isnan(score) else f"   reliability {score:.2f}")
            + f"{kind}\n{position}"
        )
    return out


def _point_out(cell: Any, x: float, y: float, side: int) -> None:
    """Two short lines that end near the source."""
    near, far = 0.13 * side, 0.25 * side
    cell.plot([x - far, x - near], [y, y], color="gold", lw=1.2)
    cell.plot([x, x], [y - far, y - near], color="gold", lw=1.2)
    cell.set(xlim=(-0.5, side - 0.5), ylim=(-0.5, side - 0.5))


def _foot(figure: Any, difference: Exposure, stamps: _Stamps, size: tuple[float, float, float]) -> None:
    """The legend of the page: masked pixels, scales, how large the stamps are, where north and east are."""
    wide, high, foot = size
    handles = legend_handles(*stamps.kinds)
    if handles:
        figure.legend(
            handles=handles,
            loc="upper left",
            ncols=len(handles),
            frameon=False,
            fontsize=9,
            title="masked pixels",
            title_fontsize=9,
            alignment="left",
            bbox_to_anchor=(0.3 / wide, (foot - 0.12) / high),
        )
    side = stamps.side * stamps.step
    extent = f"stamps are {side} x {side} px"
    if stamps.step > 1:
        extent += f" in blocks of {stamps.step} x {stamps.step}"
    if difference.wcs is not None:
        extent += f", {side * difference.pixel_scale_arcsec():.3g} arcsec"
    text = (
        f"{extent}. Image and template of a source have one asinh scale, black at -3 sigma of the sky; the difference is in "
        "units of its noise,\ngrey at 0, black and white at the same distance from it (5 sigma or the peak)."
    )
    figure.text(0.4 / wide, 0.12 / high, text, fontsize=8.5, va="bottom", color="0.25")
    if difference.wcs is not None:
        _compass(figure.add_axes(((wide - 1.15) / wide, 0.1 / high, 0.95 / wide, 0.95 / high)), difference)


def _compass(cell: Any, difference: Exposure) -> None:
    """Arrows to north and east, as they lie in the middle of the image."""
    x0, y0, width, height = difference.bbox
    jacobian = difference.require_wcs().jacobian(np.array([x0 + width / 2]), np.array([y0 + height / 2]))[0]
    for name, direction in (("N", (0.0, 1.0)), ("E", (1.0, 0.0))):
        step = np.linalg.solve(jacobian, np.array(direction))
        step /= np.hypot(*step)
        cell.annotate(
            "", tuple(0.62 * step), (0, 0), arrowprops={"arrowstyle": "->", "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
        )
        cell.text(*(0.85 * step), name, ha="center", va="center", fontsize=9)
    cell.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
    cell.set_axis_off()


def draw_stars(plt: Any, subject: "Subject", path: Path) -> None:
    """Draw kernel stars, those that were used framed green and others red: image, matched template, difference / sigma."""
    fit = subject.require_fit()
    good, bad = np.flatnonzero(fit.used), np.flatnonzero(~fit.used)
    chosen = np.concatenate([good[: STARS_SHOWN // 2], bad[: STARS_SHOWN - min(len(good), STARS_SHOWN // 2)]])
    chosen = np.concatenate([chosen, good[STARS_SHOWN // 2 :]])[:STARS_SHOWN]
    stamps = _Stamps(subject, fit.x[chosen], fit.y[chosen])
    figure, axes = plt.subplots(
        3, len(chosen), figsize=(max(1.3 * len(chosen), 7) + 1, 5.0), layout="constrained", squeeze=False
    )
    for k, star in enumerate(chosen):
        for row, (images, low, high) in enumerate(((stamps.science, 0, 1), (stamps.template, 0, 1), (stamps.z, -5, 5))):
            _show(axes[row][k], images[k], stamps.kinds[row][k], low, high)
            for spine in axes[row][k].spines.values():
                spine.set(color="limegreen" if fit.used[star] else "red", linewidth=2)
    for row, name in enumerate(("image", "template", "difference / sigma")):
        axes[row][0].set_ylabel(name, fontsize=9)
    figure.suptitle(
        f"kernel stars: {len(good)} used (green), {len(bad)} held out or rejected (red)\n"
        "image and template: asinh, black at -3 sigma; difference: -5 to 5"
        + (f"; blocks of {stamps.step} x {stamps.step} px" if stamps.step > 1 else "")
    )
    _named_masks(figure, stamps.kinds)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _named_masks(figure: Any, kinds: list[NDArray[np.int8]]) -> None:
    handles = legend_handles(*kinds)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def draw_dipoles(plt: Any, subject: "Subject", path: Path) -> None:
    """Draw the strongest dipoles on the difference with their fitted lobes."""
    sources = subject.require_sources()
    t = sources[sources.isDipole].sort_values("significance", ascending=False).head(DIPOLES_SHOWN)
    stamps = _Stamps(subject, t.dipole_x.to_numpy(np.float64), t.dipole_y.to_numpy(np.float64))
    figure, axes = plt.subplots(1, len(t), figsize=(max(2.2 * len(t), 6) + 1, 3.4), layout="constrained", squeeze=False)
    for k, (_, row) in enumerate(t.iterrows()):
        cell, limit = axes[0][k], float(stamps.limit[k])
        _show(cell, stamps.z[k], stamps.kinds[2][k], -limit, limit, "RdBu_r")
        for sign, mark in (("pos", "+"), ("neg", "x")):
            position = stamps.place(k, row[f"dipole_{sign}_x"], row[f"dipole_{sign}_y"])
            cell.plot(*position, mark, color="black", ms=9, mew=1.6)
        cell.set_title(f"#{row['id']}: {row.dipoleLengthPixels:.1f} px, S/N {row.significance:.0f}", fontsize=9)
    figure.suptitle(
        "dipoles: difference / sigma, red positive, blue negative;\nlobes of the fit: + positive, x negative",
        fontsize=11,
    )
    _named_masks(figure, stamps.kinds[2:])
    figure.savefig(path, dpi=100)
    plt.close(figure)
