"""Pictures of one subtraction: people tune subtractions by looking."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure import GridPsf
from service.diff import Difference

__all__ = ["draw_difference"]

SHOWN = 1024  # px of the image's longer side that are drawn


def draw_difference(made: Difference, folder: Path) -> list[Path]:
    """Write ``difference.png`` (image with sources), ``noise.png`` (histogram and correlation), ``psf.png``."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    out = [folder / name for name in ("difference.png", "noise.png", "psf.png")]
    _image(plt, made, out[0])
    _noise(plt, made, out[1])
    _psf(plt, made, out[2])
    return out


def _significance(made: Difference) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    d = made.exposure
    good = d.good("BAD", "SAT", "CR", "SAT_TEMPLATE", "SUSPECT")
    return np.where(good, d.image / np.sqrt(np.where(good, d.variance, 1)), np.nan).astype(np.float32), good


def _image(plt: Any, made: Difference, path: Path) -> None:
    z, _ = _significance(made)
    step = max(1, max(z.shape) // SHOWN)
    figure, axes = plt.subplots(figsize=(11, 10), layout="constrained")
    height, width = z.shape
    x0, y0 = made.exposure.origin
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
    r = made.report
    axes.set(
        xlabel="x (px)", ylabel="y (px)", title=f"{r['convolved']}, {r['nKernelUsed']} kernel stars of order "
        f"{r['kernelOrder']}, held-out residual / sigma {r['kernelResidualRms']:.2f}; masked pixels are white",
    )  # fmt: skip
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _noise(plt: Any, made: Difference, path: Path) -> None:
    z, good = _significance(made)
    values = z[good]
    values = values[:: max(1, values.size // 2_000_000)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
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
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _psf(plt: Any, made: Difference, path: Path) -> None:
    psf = made.exposure.psf
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
