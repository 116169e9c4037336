"""The picture of a difference's noise: its histogram, its correlation, its power spectrum."""

from pathlib import Path
from typing import Any

import numpy as np

from tasks.arrays import F32, F64, Flags

__all__ = ["correlations", "draw_noise", "radial_power"]

LAGS, CALM = 10, 4.0  # px of the correlation; sigma: pixels that stand out further are no noise
SIDE, BLOCKS = 256, 64  # px of the blocks of the power spectrum; how many of them
LEAST = 0.5  # of a block's pixels must count


def draw_noise(plt: Any, z: F32, good: Flags, path: Path) -> None:
    """Draw the noise of a difference over its sigma `z`, where `good`."""
    figure, (left, right, far) = plt.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    _histogram(left, z[good])
    calm = good & (np.abs(np.nan_to_num(z, nan=9)) < CALM)
    along = correlations(z, calm)
    for values, mark, name in zip(along, ("o-", "s-"), ("along x", "along y"), strict=True):
        right.plot(np.arange(1, LAGS + 1), values, mark, label=name)
    right.axhline(0, color="gray", lw=0.8)
    reach = max(0.02, 1.2 * float(np.abs(along).max()))  # what is within the error of its measurement is not blown up
    right.set(xlabel="lag (px)", ylabel="correlation", title="correlation of the noise", ylim=(-reach, reach))
    right.legend()
    frequency, power = radial_power(z, calm)
    far.plot(frequency, power)
    far.axhline(1, color="gray", lw=0.8)
    far.set(
        ylim=(0, max(2.0, 1.05 * float(power.max(initial=0)))),
        xlabel="frequency (1/px)",
        ylabel="power / white noise",
        title="power spectrum of the noise",
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _histogram(cell: Any, values: F32) -> None:
    values = values[:: max(1, values.size // 2_000_000)]
    edges = np.linspace(-6, 6, 121)
    inside = values[np.abs(values) < CALM]
    name = f"pixels, std {inside.std() if inside.size else np.nan:.3f} inside {CALM:g}"
    cell.hist(values, edges, histtype="step", density=bool(values.size), label=name)
    cell.plot(edges, np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi), label="unit Gaussian")
    cell.set(yscale="log", ylim=(1e-6, 1), xlabel="difference / sigma", ylabel="density", title="noise against its map")
    cell.legend()


def correlations(z: F32, ok: Flags) -> F64:
    """Return the correlation (2, LAGS) of pixels 1 to LAGS px apart, along x and along y, of pairs that are both `ok`."""
    values = np.where(ok, z, np.float32(0))
    power = float(np.sum(values * values, dtype=np.float64)) / max(int(ok.sum()), 1)
    out = np.zeros((2, LAGS))
    for along, (v, usable) in enumerate(((values, ok), (values.T, ok.T))):
        for k in range(1, min(LAGS + 1, v.shape[1])):
            pairs = int((usable[:, k:] & usable[:, :-k]).sum())
            out[along, k - 1] = float(np.sum(v[:, k:] * v[:, :-k], dtype=np.float64)) / max(pairs, 1)
    return out / power if power > 0 else out


def radial_power(z: F32, ok: Flags) -> tuple[F64, F64]:
    """Return frequencies (1/px) and the power there, 1 for white noise, of blocks most of whose pixels are `ok`."""
    side = min(SIDE, *z.shape)
    corners = [(y, x) for y in range(0, z.shape[0] - side + 1, side) for x in range(0, z.shape[1] - side + 1, side)]
    share = np.array([ok[y : y + side, x : x + side].mean() for y, x in corners])
    chosen = [corners[k] for k in np.flatnonzero(share >= min(LEAST, float(share.max())))][:BLOCKS]
    parts = [np.where(ok[y : y + side, x : x + side], z[y : y + side, x : x + side], 0) for y, x in chosen]
    spectrum = np.mean([np.abs(np.fft.fft2(part)) ** 2 for part in parts], axis=0)
    # what the pixels that count hold together: those that do not, hold no power
    level = side**2 * float(np.mean([np.mean(part.astype(np.float64) ** 2) for part in parts]))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    ring = np.minimum((frequency * side).astype(int), side // 2).ravel()
    radial = np.bincount(ring, spectrum.ravel()) / np.maximum(np.bincount(ring), 1) / (level if level > 0 else 1.0)
    return np.arange(1, radial.size) / side, radial[1:]
