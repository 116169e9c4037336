"""Stamps of stars that a PSF is measured on, their sub-pixel offsets and fluxes."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from exposure import Exposure, Psf
from exposure.stamps import gather, shift_stamps, sided
from tasks.arrays import F32, F64, I64, Flags, nearest_pixels

__all__ = ["Stamps", "clipped_mean", "known_pixels", "ring"]

RING = 0.42  # of the stamp side: where the local sky is taken
CLIP, CLIPS = 3.0, 6  # sigma, rounds
COVER = 1.5  # FWHM around another source that are left out


@dataclass
class Stamps:
    """Star stamps; `refine` fits positions and fluxes.

    Parameters
    ----------
    raw, variance
        (N, S, S) image unit, the local sky subtracted, NaN where a pixel tells nothing; and its square.
    x, y
        (N,) frame positions, px.
    cx, cy
        (N,) middle pixels.
    flux
        (N,) image unit.
    """

    raw: F32
    variance: F32
    x: F64
    y: F64
    cx: I64
    cy: I64
    flux: F64

    @classmethod
    def cut(cls, exposure: Exposure, stars: pd.DataFrame, sources: pd.DataFrame, side: int, fwhm: float) -> "Stamps":
        """Cut the stamps of `stars`, their local sky subtracted, without the pixels near any other of the sources."""
        x, y = stars.x.to_numpy(np.float64).copy(), stars.y.to_numpy(np.float64).copy()
        cx, cy = nearest_pixels(x), nearest_pixels(y)
        ox, oy = exposure.origin
        variance = gather(exposure.variance, cx - ox, cy - oy, side, np.nan)
        out = cls(np.empty_like(variance), variance, x, y, cx, cy, np.zeros(x.size))
        raw = gather(known_pixels(exposure), cx - ox, cy - oy, side, np.nan)
        out.take(raw, sources[["x", "y"]].to_numpy(np.float64), COVER * fwhm)
        g = np.arange(side) - side // 2
        disc = np.hypot(g[:, None], g[None, :]) <= 0.35 * side
        out.flux = np.nansum(np.where(disc, out.raw, 0), axis=(1, 2)).astype(np.float64)
        return out

    def take(self, raw: F32, others: F64, radius: float) -> None:
        """Take other pixels for the stamps: less those within a radius of `others` (M, 2), and less the local sky."""
        _blank(raw, self.cx, self.cy, others, radius)
        level = clipped_mean(raw[:, ring(raw.shape[-1])])
        self.raw = raw - np.nan_to_num(level).astype(np.float32)[:, None, None]

    def level_with(self, model: Psf, radius: float) -> None:
        """Subtract the local sky as it comes out beside the flux within a radius of px: the model tells the wings."""
        profile = model.image_at(self.x, self.y).astype(np.float64)
        g = np.arange(profile.shape[-1]) - profile.shape[-1] // 2
        use = np.isfinite(self.raw) & (np.hypot(g[:, None], g[None, :]) < radius)
        n = np.maximum(use.sum(axis=(1, 2)), 1)
        p, d = np.where(use, profile, 0), np.where(use, self.raw, 0).astype(np.float64)
        sp, sd, spp, spd = p.sum(axis=(1, 2)), d.sum(axis=(1, 2)), (p * p).sum(axis=(1, 2)), (p * d).sum(axis=(1, 2))
        slope = (spd - sp * sd / n) / np.maximum(spp - sp * sp / n, 1e-30)
        level = (sd - slope * sp) / n
        self.raw -= level.astype(np.float32)[:, None, None]

    def noise(self, radius: float) -> F64:
        """Return the noise (N,), image unit, of the light within a radius of px; that of all where no pixel is known."""
        g = np.arange(self.raw.shape[-1]) - self.raw.shape[-1] // 2
        inside = self.variance[:, np.hypot(g[:, None], g[None, :]) <= radius].astype(np.float64)
        finite = np.isfinite(inside)
        mean = np.where(finite, inside, 0).sum(1) / np.maximum(finite.sum(1), 1)
        usual = float(np.median(mean[finite.any(1)])) if finite.any() else 1.0
        return np.asarray(np.sqrt(np.where(finite.any(1), mean, usual) * np.pi * radius**2))

    def noise_model(self, profile: F64) -> tuple[F64, float]:
        """Return the variance of the sky around each star (N,), and what a count of starlight adds to it.

        The variance of single pixels would not do: where it is made from the image it knows their noise. `profile` is
        about that of a star, (S, S).
        """
        outside = self.variance[:, ring(self.variance.shape[-1])]
        has_sky = np.isfinite(outside).any(1)
        sky = np.full(has_sky.size, 1.0)
        if has_sky.any():
            sky[has_sky] = np.nanmedian(outside[has_sky], axis=1)
            sky[~has_sky] = np.median(sky[has_sky])
        light = np.clip(self.flux, 0, None)[:, None, None] * profile
        more = np.where(np.isfinite(self.raw + self.variance), self.variance - sky[:, None, None], 0)
        return sky, max(float((more * light).sum() / max(float((light**2).sum()), 1e-30)), 0.0)

    def centred(self, model: Psf | None = None) -> F32:
        """Return stamps (N, S, S) moved to the grid and divided by flux; NaN pixels stay NaN.

        What stands in for them in the move is the light on the other side; near the middle what a model says, if there is one.
        """
        out = np.empty_like(self.raw)
        holes = ~np.isfinite(self.raw)
        whole = self.raw
        if holes.any():
            rest = np.nan_to_num(self.raw[:, ::-1, ::-1])
            middle = slice(holes.shape[1] // 4, -(holes.shape[1] // 4))
            rows = np.flatnonzero(holes[:, middle, middle].any(axis=(1, 2)))
            if model is not None and rows.size:
                light = sided(model.image_at(self.x[rows], self.y[rows]), self.raw.shape[-1])
                rest[rows] = light * self.flux[rows, None, None].astype(np.float32)
            whole = np.where(holes, rest, self.raw)
        shift_stamps(whole, self.cx - self.x, self.cy - self.y, out)
        with np.errstate(divide="ignore", invalid="ignore"):  # a star whose pixels are all covered has no flux
            out /= self.flux[:, None, None].astype(np.float32)
        if holes.any():
            out[holes] = np.nan
        return out

    def refine(self, model: Psf) -> None:
        """Fit flux and position of each star with the model (linear in flux, dx, dy; core pixels only)."""
        stamps = sided(model.image_at(self.x, self.y), self.raw.shape[-1]).astype(np.float64)
        gy, gx = np.gradient(stamps, axis=(1, 2))
        peak = stamps.max(axis=(1, 2), keepdims=True)
        weight = (stamps > 0.05 * peak) & np.isfinite(self.raw)
        data = np.where(weight, self.raw, 0).astype(np.float64)
        basis = (
            np.stack([stamps, -gx * self.flux[:, None, None], -gy * self.flux[:, None, None]], axis=1) * weight[:, None]
        )
        normal = np.einsum("nkij,nlij->nkl", basis, basis)
        ridge = 1e-12 * np.einsum("nkk->nk", normal) + 1e-30  # no pixel may be left of a star
        normal += ridge[:, :, None] * np.eye(3)
        right = np.einsum("nkij,nij->nk", basis, data)
        solution = np.linalg.solve(normal, right[..., None])[..., 0]
        good = np.isfinite(solution).all(1) & (solution[:, 0] > 0)
        step = np.clip(solution[:, 1:], -0.3, 0.3)
        self.x = np.where(good, np.clip(self.x + step[:, 0], self.cx - 0.7, self.cx + 0.7), self.x)
        self.y = np.where(good, np.clip(self.y + step[:, 1], self.cy - 0.7, self.cy + 0.7), self.y)
        self.flux = np.where(good, solution[:, 0], self.flux)


def known_pixels(exposure: Exposure) -> F32:
    """Return the image (height, width), NaN where pixels tell nothing of a star's profile."""
    return np.where(exposure.good("BAD", "CR", "SAT"), exposure.image, np.float32(np.nan))


def ring(side: int) -> Flags:
    """Return the pixels (side, side) of a stamp whose level is taken for the local sky."""
    g = np.arange(side) - side // 2
    return np.hypot(g[:, None], g[None, :]) > RING * side


def clipped_mean(values: F32) -> F64:
    """Return the mean of each row (N, M) without NaN and outliers; NaN for a row without a number.

    Not the median: of digitised values that one is off by up to half a digit.
    """
    use = np.isfinite(values)
    data = np.where(use, values, 0).astype(np.float64)
    middle, scatter = np.zeros((len(data), 1)), np.full((len(data), 1), np.inf)
    for _ in range(CLIPS):
        use &= np.abs(data - middle) <= CLIP * scatter
        count = use.sum(1, keepdims=True)
        middle = (data * use).sum(1, keepdims=True) / np.maximum(count, 1)
        scatter = np.sqrt((((data - middle) * use) ** 2).sum(1, keepdims=True) / np.maximum(count, 1))
    return np.where(count > 0, middle, np.nan)[:, 0]


def _blank(raw: F32, cx: I64, cy: I64, others: F64, radius: float) -> None:
    """Set pixels within a radius of any other source to NaN."""
    side = raw.shape[-1]
    half = side // 2
    g = np.arange(side) - half
    near = cKDTree(others).query_ball_point(np.stack([cx, cy], axis=1), half * 1.5 + radius)
    for k, members in enumerate(near):  # a few hundred stars with a handful of neighbours each
        for m in members:
            dx, dy = others[m, 0] - cx[k], others[m, 1] - cy[k]
            if np.hypot(dx, dy) > 1.5:
                raw[k][(g[None, :] - dx) ** 2 + (g[:, None] - dy) ** 2 < radius**2] = np.nan
