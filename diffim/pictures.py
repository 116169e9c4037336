"""Pictures of one subtraction: people tune subtractions by looking."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffim.kernel_fit import KernelFit
from exposure import Exposure, GridPsf
from exposure.stamps import gather
from tasks.reprs import short_repr

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Subject", "draw_subtraction"]

SHOWN = 1024  # px of the image's longer side that are drawn
STARS_SHOWN, DIPOLES_SHOWN, STAMP = 12, 8, 31


@dataclass(frozen=True)
class Subject:
    """What is drawn: the difference with its sources, the image, the matched template, the kernel's fit; title numbers."""

    difference: Exposure
    science: Exposure | None = None
    matched: NDArray[np.float32] | None = None
    fit: KernelFit | None = None
    sources: "pd.DataFrame | None" = None
    convolved: str = ""

    __repr__ = short_repr


def draw_subtraction(made: Subject, folder: Path) -> list[Path]:
    """Write the pictures that can be made of what is there; returns their paths.

    ``difference.png`` (the image with its sources), ``noise.png`` (histogram, correlation and power), ``psf.png``,
    ``kernel.png`` (mosaic and coefficients), ``stars.png`` (image, matched, residual of kernel stars), ``dipoles.png``.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    todo = {"difference": _image, "noise": _noise, "psf": _psf}
    if made.fit is not None:
        todo["kernel"] = _kernel
        if made.science is not None and made.matched is not None:
            todo["stars"] = _stars
    if made.sources is not None and made.sources.isDipole.any():
        todo["dipoles"] = _dipoles
    out = []
    for name, draw in todo.items():
        out.append(folder / f"{name}.png")
        draw(plt, made, out[-1])
    return out


def _significance(made: Subject) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    d = made.difference
    good = d.good("BAD", "SAT", "CR", "SAT_TEMPLATE", "SUSPECT")
    return np.where(good, d.image / np.sqrt(np.where(good, d.variance, 1)), np.nan).astype(np.float32), good


def _image(plt: Any, made: Subject, path: Path) -> None:
    z, _ = _significance(made)
    step = max(1, max(z.shape) // SHOWN)
    figure, axes = plt.subplots(figsize=(11, 10), layout="constrained")
    height, width = z.shape
    x0, y0 = made.difference.origin
    shown = axes.imshow(
        z[::step, ::step], origin="lower", cmap="gray", vmin=-5, vmax=5, interpolation="nearest",
        extent=(x0 - 0.5, x0 + width - 0.5, y0 - 0.5, y0 + height - 0.5),
    )  # fmt: skip
    figure.colorbar(shown, label="difference / sigma", shrink=0.8)
    if made.sources is not None and len(made.sources):
        s = made.sources
        for chosen, colour, name in ((~s.isNegative, "gold", "positive"), (s.isNegative, "tomato", "negative")):
            axes.plot(s.x[chosen], s.y[chosen], "o", mfc="none", mec=colour, ms=9, label=f"{name}: {int(chosen.sum())}")
        axes.legend(loc="upper right")
    title = made.convolved or "difference / sigma"
    if made.fit is not None:
        f = made.fit
        title += f", {f.n_used} kernel stars of order {f.kernel.kernel_order}, held-out residual / sigma {f.residual_rms:.2f}"
    axes.set(xlabel="x (px)", ylabel="y (px)", title=f"{title}; masked pixels are white")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _noise(plt: Any, made: Subject, path: Path) -> None:
    z, good = _significance(made)
    values = z[good]
    values = values[:: max(1, values.size // 2_000_000)]
    figure, (left, right, far) = plt.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    edges = np.linspace(-6, 6, 121)
    left.hist(
        values,
        edges,
        histtype="step",
        density=True,
        label=f"pixels, std {values[np.abs(values) < 4].std():.3f} inside 4",
    )
    left.plot(edges, np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi), label="unit Gaussian")
    left.set(yscale="log", ylim=(1e-6, 1), xlabel="difference / sigma", ylabel="density", title="noise against its map")
    left.legend()
    calm = np.where(good & (np.abs(np.nan_to_num(z, nan=9)) < 4), z, 0).astype(np.float32)
    lags = np.arange(1, 11)
    power = float((calm**2).mean())
    along = [
        [float((calm[:, k:] * calm[:, :-k]).mean()) / power, float((calm[k:] * calm[:-k]).mean()) / power] for k in lags
    ]
    right.plot(lags, np.array(along)[:, 0], "o-", label="along x")
    right.plot(lags, np.array(along)[:, 1], "s-", label="along y")
    right.axhline(0, color="gray", lw=0.8)
    right.set(xlabel="lag (px)", ylabel="correlation", title="correlation of the noise")
    right.legend()
    side = min(256, *calm.shape)
    blocks = [
        calm[y : y + side, x : x + side]
        for y in range(0, calm.shape[0] - side + 1, side)
        for x in range(0, calm.shape[1] - side + 1, side)
    ][:64]
    spectrum = np.mean([np.abs(np.fft.fft2(b)) ** 2 for b in blocks], axis=0) / (side**2 * power)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    ring = np.minimum((frequency * side).astype(int), side // 2).ravel()
    radial = np.bincount(ring, spectrum.ravel()) / np.maximum(np.bincount(ring), 1)
    far.plot(np.arange(1, radial.size) / side, radial[1:])
    far.axhline(1, color="gray", lw=0.8)
    far.set(ylim=(0, 2), xlabel="frequency (1/px)", ylabel="power / white noise", title="power spectrum of the noise")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _psf(plt: Any, made: Subject, path: Path) -> None:
    psf = made.difference.psf
    assert isinstance(psf, GridPsf)
    figure, axes = plt.subplots(psf.ny, psf.nx, figsize=(9, 9), layout="constrained", squeeze=False)
    peak = float(psf.cube.max())
    for k, stamp in enumerate(psf.cube):
        cell = axes[psf.ny - 1 - k // psf.nx][k % psf.nx]
        cell.imshow(np.arcsinh(stamp / peak * 300), origin="lower", cmap="magma", vmin=0, vmax=np.arcsinh(300))
        cell.set_axis_off()
    figure.suptitle("PSF of the difference over the image (asinh scale)")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _kernel(plt: Any, made: Subject, path: Path) -> None:
    """Mosaic of the kernel over the image, and its first varying coefficients along both axes."""
    assert made.fit is not None
    kernel = made.fit.kernel
    x0, y0, width, height = kernel.box
    at = (np.arange(7) + 0.5) / 7
    gx, gy = (g.ravel() for g in np.meshgrid(x0 + at * width, y0 + at * height))
    stamps = kernel.kernels_at(gx, gy)
    mosaic = stamps.reshape(7, 7, kernel.size, kernel.size).transpose(0, 2, 1, 3).reshape(7 * kernel.size, -1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 6.5), layout="constrained")
    scale = float(np.abs(stamps).max())
    left.imshow(
        np.arcsinh(mosaic / scale * 100), origin="lower", cmap="RdBu_r", vmin=-np.arcsinh(100), vmax=np.arcsinh(100)
    )
    left.set(xticks=[], yticks=[], title=f"kernel over the image (asinh), sum {kernel.kernel_sum:.4f}")
    g = np.arange(kernel.size) - kernel.size // 2
    total = stamps.sum((1, 2))
    mean_x, mean_y = (stamps.sum(1) * g).sum(1) / total, (stamps.sum(2) * g).sum(1) / total
    for values, label in ((mean_x, "centroid x"), (mean_y, "centroid y")):
        right.plot(gx, values, "o", ms=4, label=f"{label} against x")
    right.axhline(0, color="gray", lw=0.8)
    right.set(xlabel="x (px)", ylabel="px", title="shift that the kernel makes up for")
    right.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _stars(plt: Any, made: Subject, path: Path) -> None:
    """Kernel stars, good ones framed green and rejected ones red: image, matched template, difference / sigma."""
    fit, science = made.fit, made.science
    assert fit is not None and science is not None and made.matched is not None
    good, bad = np.flatnonzero(fit.used), np.flatnonzero(~fit.used)
    chosen = np.concatenate([good[: STARS_SHOWN // 2], bad[: STARS_SHOWN - min(len(good), STARS_SHOWN // 2)]])
    chosen = np.concatenate([chosen, good[STARS_SHOWN // 2 :]])[:STARS_SHOWN]
    ix, iy = (np.floor(a[chosen] + 0.5).astype(np.int64) for a in (fit.x, fit.y))
    x0, y0 = science.origin
    d = made.difference
    z = d.image / np.sqrt(np.maximum(d.variance, 1e-30))
    rows = [
        gather(np.ascontiguousarray(p, np.float32), ix - x0, iy - y0, STAMP, 0.0)
        for p in (science.image, made.matched, z)
    ]
    figure, axes = plt.subplots(
        3, len(chosen), figsize=(1.3 * len(chosen) + 1, 4.4), layout="constrained", squeeze=False
    )
    for k, star in enumerate(chosen):
        top = max(float(np.nanmax(rows[0][k])), 1e-6)
        for r, stamps in enumerate(rows):
            limits = {"vmin": -5, "vmax": 5} if r == 2 else {"vmin": 0, "vmax": np.arcsinh(100)}
            shown = stamps[k] if r == 2 else np.arcsinh(np.clip(stamps[k] / top, 0, 1) * 100)
            cell = axes[r][k]
            cell.imshow(shown, origin="lower", cmap="gray", **limits)
            cell.set(xticks=[], yticks=[])
            for spine in cell.spines.values():
                spine.set(color="limegreen" if fit.used[star] else "red", linewidth=2)
    for r, name in enumerate(("image", "matched", "difference / sigma")):
        axes[r][0].set_ylabel(name)
    figure.suptitle(f"kernel stars: {len(good)} used (green), {len(bad)} held out or rejected (red)")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _dipoles(plt: Any, made: Subject, path: Path) -> None:
    """The strongest dipoles on the difference with their fitted lobes."""
    assert made.sources is not None
    t = made.sources[made.sources.isDipole].sort_values("significance", ascending=False).head(DIPOLES_SHOWN)
    d = made.difference
    z = (d.image / np.sqrt(np.maximum(d.variance, 1e-30))).astype(np.float32)
    ix, iy = (np.floor(t[c].to_numpy() + 0.5).astype(np.int64) for c in ("dipole_x", "dipole_y"))
    stamps = gather(z, ix - d.origin[0], iy - d.origin[1], STAMP, 0.0)
    figure, axes = plt.subplots(1, len(t), figsize=(2.2 * len(t) + 1, 2.8), layout="constrained", squeeze=False)
    for cell, stamp, x, y, (_, row) in zip(axes[0], stamps, ix, iy, t.iterrows(), strict=True):
        top = max(float(np.abs(stamp).max()), 5.0)
        cell.imshow(stamp, origin="lower", cmap="RdBu_r", vmin=-top, vmax=top)
        for sign, colour in (("pos", "gold"), ("neg", "black")):
            cell.plot(
                row[f"dipole_{sign}_x"] - x + STAMP // 2,
                row[f"dipole_{sign}_y"] - y + STAMP // 2,
                "+",
                color=colour,
                ms=9,
            )
        cell.set(xticks=[], yticks=[], title=f"{row.dipoleLengthPixels:.1f} px")
    figure.suptitle("dipoles: difference / sigma; + positive lobe (gold), negative (black)")
    figure.savefig(path, dpi=100)
    plt.close(figure)
