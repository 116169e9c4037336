"""What the pixels around detections say to the model of reliability: stamps of the images, and numbers made of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter

from diffim.measurement.shape_fits import shape_fits
from exposure import Exposure
from exposure.mask import plane_bits
from exposure.photometry import psf_images
from exposure.psf import fwhm_of
from exposure.psf_width import psf_fwhm
from exposure.stamps import gather, sided
from tasks.arrays import F32, F64, I32, I64, nearest_pixels

__all__ = ["JudgedStamps", "cut_stamps", "numbers_of_stamps"]

LEAST_HALF, MOST_HALF, REACH = 15, 40, 3.2  # px, px and FWHM: stamps reach as far as that about their middle
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
    science, science_sigma, science_model, template, template_sigma, template_model
        The images that were subtracted, their noise and their PSFs.
    fwhm
        Shape (N,), px, of the PSF of the difference.
    typical_fwhm
        px, of that PSF over the whole image: one number, however the rows are divided into batches.
    """

    data: F32
    sigma: F32
    mask: I32
    model: F32
    science: F32
    science_sigma: F32
    science_model: F32
    template: F32
    template_sigma: F32
    template_model: F32
    fwhm: F64
    typical_fwhm: float


def cut_stamps(difference: Exposure, science: Exposure, template: Exposure, table: pd.DataFrame) -> JudgedStamps:
    """Return the stamps around the rows of a table; pixels without data and beyond the edges are 0, with little noise."""
    x, y = table.x.to_numpy(np.float64), table.y.to_numpy(np.float64)
    ix, iy = nearest_pixels(x), nearest_pixels(y)

    psf = difference.require_psf()
    fwhm = np.asarray(fwhm_of(psf.moments_at(x, y)), np.float64)
    typical = psf_fwhm(psf, difference.bbox)
    side = _side(typical)

    def cut(plane: Any, e: Exposure, fill: float) -> Any:
        return np.nan_to_num(gather(plane, ix - e.origin[0], iy - e.origin[1], side, fill))

    def noise(e: Exposure) -> F32:
        return np.asarray(np.sqrt(np.maximum(cut(e.variance, e, np.nan), 1e-30)), np.float32)

    def light(e: Exposure) -> F32:
        return np.asarray(cut(e.image, e, 0.0), np.float32)

    def model(e: Exposure) -> F32:
        return sided(psf_images(e.require_psf(), x, y), side)

    mask = gather(difference.mask, ix - difference.origin[0], iy - difference.origin[1], side, plane_bits(["NO_DATA"]))
    return JudgedStamps(
        light(difference), noise(difference), mask, model(difference),
        light(science), noise(science), model(science), light(template), noise(template), model(template),
        fwhm, typical,
    )  # fmt: skip


def _side(fwhm: float) -> int:
    """Return the side of stamps that reach `REACH` FWHM about their middle, within bounds."""
    return 2 * int(np.clip(np.ceil(REACH * np.nan_to_num(fwhm)), LEAST_HALF, MOST_HALF)) + 1


def numbers_of_stamps(s: JudgedStamps, table: pd.DataFrame) -> dict[str, F64]:
    """Return numbers (N,) by name; NaN where one has no meaning."""
    sign = table.peakSign.to_numpy(np.float64)
    data, sigma, model, static = (_flat(a) for a in (s.data, s.sigma, s.model, s.template))
    data *= sign[:, None]
    r = _radius(s.data.shape[-1]).ravel() / s.fwhm[:, None]
    inner = (r <= 1.5).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = data / sigma
        out = _of_masks(_flat(s.mask, np.int32), r) | _of_profile(data, sigma, z, model, r)
        out |= _of_surroundings(_averaged(data, sigma, s.typical_fwhm), r)
        near = data * inner
        steep = [_flat(np.asarray(g, np.float32)) for g in np.gradient(s.template, axis=(1, 2))]
        out |= {
            "likeness": _cosine(near, model, inner),
            "like_template": _cosine(near, static, inner),
            "like_gradient": np.hypot(*(_cosine(near, g, inner) for g in steep)),
        }
        images = (
            _of_image(s.science, s.science_sigma, s.science_model, table.scienceInstFlux, s.fwhm, r),
            _of_image(s.template, s.template_sigma, s.template_model, table.templateInstFlux, s.fwhm, r),
        )
        for name in images[0]:  # of the image that has the light, and of the one that has less
            out[f"own_{name}"] = np.where(sign > 0, images[0][name], images[1][name])
            out[f"other_{name}"] = np.where(sign > 0, images[1][name], images[0][name])
        shape = shape_fits(s.data * sign.astype(np.float32)[:, None, None], s.sigma, s.model, s.fwhm, inner, False)
    return out | shape


def _averaged(data: F64, sigma: F64, fwhm: float) -> F64:
    """Return light over noise (N, P) of boxes about each pixel that are a third of the FWHM wide: 1 px below 6 px."""
    side = round(data.shape[1] ** 0.5)
    box = 2 * int(np.nan_to_num(fwhm) / 6.0) + 1
    if box == 1:
        return data / sigma
    light, noise = (uniform_filter(a.reshape(-1, side, side), (0, box, box)) for a in (data, sigma**2))
    return np.asarray((light * box / np.sqrt(np.maximum(noise, 1e-60))).reshape(data.shape))


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
    side = round(data.shape[1] ** 0.5)
    middle, centre = _middle(side), side * side // 2
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
    side = round(z.shape[1] ** 0.5)
    g = np.arange(side) - side // 2
    turn = np.arctan2(g[:, None], g[None, :]).ravel()
    waves = around @ np.stack([np.ones(turn.size), *(f(m * turn) for m in (1, 2) for f in (np.cos, np.sin))], axis=1)
    shares = waves / number[:, None]
    lines = {}
    middle = slice(side // 2 - 1, side // 2 + 2)
    light, there = (a.reshape(-1, side, side) for a in (around, beside))
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


def _of_image(image: F32, sigma: F32, model: F32, fluxes: "pd.Series[float]", fwhm: F64, r: F64) -> dict[str, F64]:
    """Return how far what is there on one of the two images is as sharp as, and looks like, a star of that image.

    Widths and shifts (`shape_fits`) are in units of the PSF of the difference, whose `fwhm` (N,) in px is given; `r` (N, S * S) is
    the distance of pixels from the middle, in that unit.
    """
    side = image.shape[-1]
    middle, centre, flux = _middle(side), side * side // 2, fluxes.to_numpy(np.float64)
    light, psf = _flat(image), _flat(model)
    steep, psf_steep = (a[:, centre] - (a[:, middle].sum(1) - a[:, centre]) / 8 for a in (light, psf))
    sky = np.median(light[:, _border(side)], axis=1)
    inner = (r <= 1.5).astype(np.float64)
    shape = shape_fits(image, sigma, model, fwhm, (r <= 2.0).astype(np.float64), True)
    return {
        "sharpness": np.clip(steep / (np.abs(flux) * psf_steep), -9, 9),
        "likeness": _cosine((light - sky[:, None]) * inner, psf, inner),
    } | shape


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


def _middle(side: int) -> I64:
    """Return which places of a row are the central 3 x 3 pixels."""
    g = side // 2 + np.arange(-1, 2)
    return np.asarray((g[:, None] * side + g[None, :]).ravel())


def _border(side: int) -> I64:
    """Return which places of a row are the outermost pixels."""
    return np.flatnonzero(np.pad(np.zeros((side - 2, side - 2)), 1, constant_values=1))


def _radius(side: int) -> F64:
    g = np.arange(side) - side // 2
    return np.asarray(np.hypot(g[:, None], g[None, :]), np.float64)
