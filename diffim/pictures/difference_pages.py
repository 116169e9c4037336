"""Pictures of one subtraction: people tune subtractions by looking."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffim.matching.kernel_fit import KernelFit
from diffim.pictures.blocks import block_significance, block_size
from diffim.pictures.masks import binned_kinds, legend_handles, painted
from diffim.pictures.noise import draw_noise
from exposure import Exposure, GridPsf
from tasks.arrays import F32, Flags
from tasks.errors import CallerError
from tasks.reprs import short_repr

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Subject", "draw_subtraction"]

SHOWN = 1024  # dots of a picture's longer side
KERNELS = 7  # of the mosaic, along each axis
RELIABLE = 0.5  # sources below are drawn with thin lines


@dataclass(frozen=True)
class Subject:
    """What is drawn: the difference with its sources, the image, the matched template (height, width), the kernel's fit.

    `convolved` names the image that was convolved, for the title.
    """

    difference: Exposure
    science: Exposure | None = None
    matched: F32 | None = None
    fit: KernelFit | None = None
    sources: "pd.DataFrame | None" = None
    convolved: str = ""

    __repr__ = short_repr

    def require_fit(self) -> KernelFit:
        """Return the kernel's fit.

        Raises
        ------
        CallerError
            There is none.
        """
        if self.fit is None:
            raise CallerError("a picture of the kernel needs the kernel's fit")
        return self.fit

    def require_sources(self) -> "pd.DataFrame":
        """Return the sources.

        Raises
        ------
        CallerError
            There are none.
        """
        if self.sources is None:
            raise CallerError("a picture of the sources needs the sources")
        return self.sources


def draw_subtraction(subject: Subject, folder: Path) -> list[Path]:
    """Write the pictures that can be made of what is there; returns their paths.

    ``difference.png`` (the image with its sources), ``noise.png`` (histogram, correlation and power), ``psf.png``,
    ``kernel.png`` (mosaic and shifts), ``stars.png`` (image, matched, residual of kernel stars), ``sources.png`` (image,
    matched, difference of the sources), ``dipoles.png``. Masked pixels have colours of their own.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from diffim.pictures.stamps import draw_dipoles, draw_sources, draw_stars

    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"difference": _image, "noise": _noise, "psf": _psf}
    if subject.fit is not None:
        pictures["kernel"] = _kernel
        if subject.science is not None and subject.matched is not None:
            pictures["stars"] = draw_stars
    if subject.sources is not None and len(subject.sources):
        pictures["sources"] = draw_sources
        if subject.sources.isDipole.any():
            pictures["dipoles"] = draw_dipoles
    out = []
    for name, draw in pictures.items():
        out.append(folder / f"{name}.png")
        draw(plt, subject, out[-1])
    return out


def _significance(subject: Subject) -> tuple[F32, Flags]:
    d = subject.difference
    good = d.good("BAD", "SAT", "CR", "SAT_TEMPLATE", "SUSPECT")
    return np.where(good, d.image / np.sqrt(np.where(good, d.variance, 1)), np.nan).astype(np.float32), good


def _image(plt: Any, subject: Subject, path: Path) -> None:
    z, _ = _significance(subject)
    step = max(-(-max(z.shape) // SHOWN), block_size(subject.difference))
    small = block_significance(z, step)
    figure, axes = plt.subplots(figsize=_page(*small.shape), layout="constrained")
    kinds = binned_kinds(subject.difference.mask, step)
    kinds = np.where((kinds < 0) & ~np.isfinite(small), np.int8(0), kinds)
    x0, y0 = subject.difference.origin
    extent = (x0 - 0.5, x0 + small.shape[1] * step - 0.5, y0 - 0.5, y0 + small.shape[0] * step - 0.5)
    shown = axes.imshow(small, origin="lower", cmap="gray", vmin=-5, vmax=5, interpolation="nearest", extent=extent)
    axes.imshow(painted(kinds), origin="lower", interpolation="nearest", extent=extent)
    figure.colorbar(shown, label="difference / sigma" + (f" of {step} x {step} px" if step > 1 else ""), shrink=0.7)
    handles = _marked(axes, subject.sources) + legend_handles(kinds)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    title = subject.convolved or "difference / sigma"
    if subject.fit is not None:
        f = subject.fit
        title += f", {f.n_used} kernel stars of order {f.kernel.kernel_order}, held-out residual / sigma {f.residual_rms:.2f}"
    axes.set(xlabel="x (px)", ylabel="y (px)", title=title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _page(height: int, width: int) -> tuple[float, float]:
    """Return the size of a page (inches) that an image of that shape fills, with room for scale, title and legend."""
    longest = max(height, width)
    return max(9.2 * width / longest, 5.0) + 1.8, 9.2 * height / longest + 1.5


def _marked(axes: Any, sources: "pd.DataFrame | None") -> list[Any]:
    """Circle the sources, those that are not reliable with thin lines; returns what the legend is to name."""
    if sources is None or not len(sources):
        return []
    sure = np.ones(len(sources), bool)
    if "reliability" in sources:
        sure = (sources.reliability >= RELIABLE).to_numpy(bool)
    fainter = sources.isNegative.to_numpy(bool)
    handles = []
    for chosen, colour, name, width in (
        (~fainter & sure, "gold", "new or brighter", 1.8),
        (fainter & sure, "deepskyblue", "fainter or gone", 1.8),
        (~fainter & ~sure, "gold", f"brighter, reliability < {RELIABLE}", 0.7),
        (fainter & ~sure, "deepskyblue", f"fainter, reliability < {RELIABLE}", 0.7),
    ):
        if chosen.any():
            handles += axes.plot(
                sources.x[chosen],
                sources.y[chosen],
                "o",
                mfc="none",
                mec=colour,
                ms=11,
                mew=width,
                label=f"{name}: {int(chosen.sum())}",
            )
    return handles


def _noise(plt: Any, subject: Subject, path: Path) -> None:
    draw_noise(plt, *_significance(subject), path)


def _psf(plt: Any, subject: Subject, path: Path) -> None:
    psf = subject.difference.require_psf()
    if not isinstance(psf, GridPsf):
        raise CallerError("a picture of the PSF needs a PSF on a grid")
    from matplotlib.colors import SymLogNorm

    figure, cell = plt.subplots(figsize=(9.6, 9), layout="constrained")
    peak = float(psf.cube.max())
    scale = SymLogNorm(1e-3, vmin=min(-1e-2, float(psf.cube.min()) / peak), vmax=1.0)
    shown = _mosaic(cell, psf.cube / peak, psf.nx, "magma", scale)
    figure.colorbar(shown, ax=cell, label="value / peak (linear below 0.001)", shrink=0.7)
    sums = psf.cube.sum((1, 2))
    figure.suptitle(f"PSF of the difference over the image; sums {sums.min():.3f} to {sums.max():.3f}")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _kernel(plt: Any, subject: Subject, path: Path) -> None:
    """Mosaic of the kernel over the image, and the shift that it makes up for."""
    from matplotlib.colors import SymLogNorm

    kernel = subject.require_fit().kernel
    x0, y0, width, height = kernel.box
    share = (np.arange(KERNELS) + 0.5) / KERNELS
    gx, gy = (g.ravel() for g in np.meshgrid(x0 + share * width, y0 + share * height))
    stamps = kernel.kernels_at(gx, gy)
    side = kernel.size
    figure, (left, right) = plt.subplots(1, 2, figsize=(14.5, 6.8), layout="constrained")
    scale = float(np.abs(stamps).max())
    shown = _mosaic(left, stamps / scale, KERNELS, "RdBu_r", SymLogNorm(1e-2, vmin=-1, vmax=1))
    figure.colorbar(shown, ax=left, label="value / largest (linear below 0.01)", shrink=0.85)
    left.set(title=f"kernel over the image, {side} x {side} px, sum {kernel.kernel_sum:.4f}")
    g = np.arange(side) - side // 2
    total = stamps.sum((1, 2))
    mean_x, mean_y = (stamps.sum(1) * g).sum(1) / total, (stamps.sum(2) * g).sum(1) / total
    arrows = right.quiver(gx, gy, mean_x, mean_y, pivot="mid", width=0.004)
    longest = max(float(np.hypot(mean_x, mean_y).max()), 1e-6)
    right.quiverkey(arrows, 0.82, 1.025, longest, f"{longest:.3g} px", labelpos="E")
    right.set(xlabel="x (px)", ylabel="y (px)", aspect="equal", xlim=(x0, x0 + width), ylim=(y0, y0 + height))
    right.set_title("shift that the kernel makes up for", loc="left")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _mosaic(cell: Any, stamps: NDArray[np.floating], across: int, colours: str, scale: Any) -> Any:
    """Show stamps (N, S, S) in rows of so many, the first at the lower left, as one image: axes for each would take half a minute."""
    down, side = len(stamps) // across, stamps.shape[-1]
    mosaic = stamps.reshape(down, across, side, side).transpose(0, 2, 1, 3).reshape(down * side, -1)
    shown = cell.imshow(mosaic, origin="lower", cmap=colours, norm=scale)
    for count, line in ((down, cell.axhline), (across, cell.axvline)):
        for number in range(1, count):
            line(number * side - 0.5, color="0.75", lw=0.7)
    cell.set(xticks=[], yticks=[])
    return shown
