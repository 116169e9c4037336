"""What the pixels around detections say to the model of reliability: stamps of the images, and numbers made of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from exposure import Exposure
from exposure.mask import plane_bits
from exposure.photometry import psf_images
from exposure.psf import fwhm_of
from exposure.stamps import gather, sided
from tasks.arrays import F32, F64, I32, I64, nearest_pixels

__all__ = ["SIDE", "JudgedStamps", "cut_stamps", "numbers_of_stamps"]

SIDE = 31
_MASKS = {
    "masked_saturated": ("SAT", "SAT_TEMPLATE", "SUSPECT"), "masked_cosmic": ("CR",),
    "masked_unusable": ("BAD", "NO_DATA", "EDGE"), "masked_streak": ("STREAK",), "masked_inexact": ("INEXACT_PSF",),
}  # fmt: skip


@dataclass(frozen=True)
class JudgedStamps:
    """Stamps (N, S, S) around the pixels nearest to detections.

    Parameters
    ----------
    data, sigma, mask, model
        Difference, its noise, its mask and its PSF.
    science, science_model, template, template_model
        The images that were subtracted and their PSFs.
    fwhm
        Shape (N,), px, of the PSF of the difference.
    """

    data: F32
    sigma: F32
    mask: I32
    model: F32
    science: F32
    science_model: F32
    template: F32
    template_model: F32
    fwhm: F64


def cut_stamps(difference: Exposure, science: Exposure, template: Exposure, table: pd.DataFrame) -> JudgedStamps:
    """Return the stamps around the rows of a table; pixels without data and beyond the edges are 0, with little noise."""
    x, y = table.x.to_numpy(np.float64), table.y.to_numpy(np.float64)
    ix, iy = nearest_pixels(x), nearest_pixels(y)

    def cut(e: Exposure) -> F32:
        return np.asarray(np.nan_to_num(gather(e.image, ix - e.origin[0], iy - e.origin[1], SIDE, 0.0)), np.float32)

    ox, oy = difference.origin
    variance = np.nan_to_num(gather(difference.variance, ix - ox, iy - oy, SIDE, np.nan))
    psf = difference.require_psf()
    return JudgedStamps(
        cut(difference),
        np.sqrt(np.maximum(variance, 1e-30)),
        gather(difference.mask, ix - ox, iy - oy, SIDE, plane_bits(["NO_DATA"])),
        sided(psf_images(psf, x, y), SIDE),
        cut(science),
        sided(psf_images(science.require_psf(), x, y), SIDE),
        cut(template),
        sided(psf_images(template.require_psf(), x, y), SIDE),
        np.asarray(fwhm_of(psf.moments_at(x, y)), np.float64),
    )


def numbers_of_stamps(s: JudgedStamps, table: pd.DataFrame) -> dict[str, F64]:
    """Return numbers (N,) by name; NaN where one has no meaning."""
    sign = table.peakSign.to_numpy(np.float64)
    data, sigma, model, static = (_flat(a) for a in (s.data, s.sigma, s.model, s.template))
    data *= sign[:, None]
    r = _radius().ravel() / s.fwhm[:, None]
    inner = (r <= 1.5).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = data / sigma
        out = _of_masks(_flat(s.mask, np.int32), r) | _of_profile(data, sigma, z, model, r) | _of_surroundings(z, r)
        near = data * inner
        steep = [_flat(np.asarray(g, np.float32)) for g in np.gradient(s.template, axis=(1, 2))]
        out |= {
            "likeness": _cosine(near, model, inner),
            "like_template": _cosine(near, static, inner),
            "like_gradient": np.hypot(*(_cosine(near, g, inner) for g in steep)),
        }
        for name, image, psf, flux in (
            ("science", s.science, s.science_model, table.scienceInstFlux),
            ("template", s.template, s.template_model, table.templateInstFlux),
        ):
            out |= _of_image(name, _flat(image), _flat(psf), flux.to_numpy(np.float64), inner)
    return out


def _of_masks(mask: I32, r: F64) -> dict[str, F64]:
    """Return the share of pixels with a plane within 2 FWHM, and within the stamp."""
    near = r <= 2.0
    count = np.maximum(near.sum(1), 1)
    present = int(np.bitwise_or.reduce(mask, axis=None)) if mask.size else 0
    out = {name: np.zeros(len(mask)) for name in (*_MASKS, "near_saturated", "near_unusable")}
    for name, planes in _MASKS.items():
        if present & plane_bits(planes):
            bits = (mask & plane_bits(planes)) != 0
            out[name] = (bits & near).sum(1) / count
            if name.replace("masked", "near") in out:
                out[name.replace("masked", "near")] = bits.mean(1)
    return out


def _of_profile(data: F64, sigma: F64, z: F64, model: F64, r: F64) -> dict[str, F64]:
    """Return how the light is spread against how the PSF spreads it."""
    half, core, inner, wide = ((r <= reach).astype(np.float64) for reach in (0.5, 1.0, 1.5, 2.0))
    middle, centre = _middle(), SIDE * SIDE // 2
    flux = _fitted(data, model, core)
    scale = np.abs(flux)
    pull = model / sigma * inner
    number, own, cross, light = inner.sum(1), _dot(z * inner, z), _dot(pull, z), _dot(pull, pull) * flux**2
    mirrored = _dot(z * inner, z[:, ::-1])
    rest, odd = own - 2 * flux * cross + light - number, own - mirrored - number
    peak, psf_peak = (a[:, centre] / a[:, middle].sum(1) for a in (data, model))
    return {
        "curve_of_growth": np.clip(_dot(data, wide) / (flux * _dot(model, wide)), -5, 5),
        "sharpness": np.clip(peak / psf_peak, -5, 5),
        "misfit": np.log10(np.sqrt(np.maximum(rest, 0) / np.maximum(light, 1e-30)) + 1e-2),
        "inner_flux": np.clip(_fitted(data, model, half) / scale, -5, 5),
        "outer_flux": np.clip(_fitted(data, model, wide - core) / scale, -9, 9),
        "asymmetry": np.log10(np.sqrt(np.maximum(odd, 0) / np.maximum(own, 1e-30)) + 1e-2),
    }


def _of_surroundings(z: F64, r: F64) -> dict[str, F64]:
    """Return what there is around the source, in sigma: holes, a pedestal, lines."""
    wide, ring, beside = r <= 2.0, (r > 2.0) & (r <= 4.0), (r > 1.5) & (r <= 4.0)
    high = np.maximum(np.where(r <= 1.0, z, 0).max(1), 1e-3)
    clipped = np.clip(z, -20, 20)
    around, number = clipped * beside, np.sqrt(np.maximum(beside.sum(1), 1))
    g = np.arange(SIDE) - SIDE // 2
    turn = np.arctan2(g[:, None], g[None, :]).ravel()
    waves = around @ np.stack([np.ones(turn.size), *(f(m * turn) for m in (1, 2) for f in (np.cos, np.sin))], axis=1)
    shares = waves / number[:, None]
    lines = {}
    middle = slice(SIDE // 2 - 1, SIDE // 2 + 2)
    light, there = (a.reshape(-1, SIDE, SIDE) for a in (around, beside))
    for name, axis, cut in (("column", 1, np.s_[:, :, middle]), ("row", 2, np.s_[:, middle, :])):
        here = light[cut].sum(axis) / np.sqrt(np.maximum(there[cut].sum(axis), 1))
        lines[name] = np.arcsinh(np.take_along_axis(here, np.abs(here).argmax(1)[:, None], 1)[:, 0])
    return lines | {
        "opposite": ((z < -2) & wide).sum(1) / wide.sum(1),
        "trough": np.clip(-np.where(wide, z, 0).min(1) / high, 0, 5),
        "unrest": np.log10(np.sqrt(_dot(clipped * ring, clipped) / np.maximum(ring.sum(1), 1))),
        "pedestal": np.arcsinh(shares[:, 0]),
        "one_sided": np.arcsinh(np.hypot(shares[:, 1], shares[:, 2])),
        "stretched": np.arcsinh(np.hypot(shares[:, 3], shares[:, 4])),
    }


def _of_image(name: str, image: F64, model: F64, flux: F64, inner: F64) -> dict[str, F64]:
    """Return how far what is there on one of the two images is as sharp as, and looks like, a star of that image."""
    middle, centre = _middle(), SIDE * SIDE // 2
    steep, psf_steep = (a[:, centre] - (a[:, middle].sum(1) - a[:, centre]) / 8 for a in (image, model))
    sky = np.median(image[:, _border()], axis=1)
    return {
        f"{name}_sharpness": np.clip(steep / (np.abs(flux) * psf_steep), -9, 9),
        f"{name}_likeness": _cosine((image - sky[:, None]) * inner, model, inner),
    }


def _flat(stamps: F32 | I32, kind: type[np.generic] = np.float64) -> Any:
    """Return stamps (N, S, S) as rows (N, S * S)."""
    return stamps.reshape(len(stamps), -1).astype(kind)


def _dot(a: F64, b: F64) -> F64:
    """Return the sum (N,) of the products of two arrays of rows."""
    return np.asarray(np.einsum("np,np->n", a, b))


def _fitted(data: F64, model: F64, where: F64) -> F64:
    """Flux (N,) of the PSF that fits the pixels of a region best."""
    weight = model * where
    return np.asarray(_dot(weight, data) / np.maximum(_dot(weight, model), 1e-30))


def _cosine(near: F64, b: F64, where: F64) -> F64:
    """Likeness (N,), -1 to 1, of rows that are 0 outside of a region to other rows."""
    return np.asarray(_dot(near, b) / np.sqrt(np.maximum(_dot(near, near) * _dot(b * where, b), 1e-30)))


def _middle() -> I64:
    """Return which places of a row are the central 3 x 3 pixels."""
    g = SIDE // 2 + np.arange(-1, 2)
    return np.asarray((g[:, None] * SIDE + g[None, :]).ravel())


def _border() -> I64:
    """Return which places of a row are the outermost pixels."""
    return np.flatnonzero(np.pad(np.zeros((SIDE - 2, SIDE - 2)), 1, constant_values=1))


def _radius() -> F64:
    g = np.arange(SIDE) - SIDE // 2
    return np.asarray(np.hypot(g[:, None], g[None, :]), np.float64)
