"""Dipoles: a positive and a negative star close together, fitted jointly on the difference and the two images behind it.

The difference alone knows only the product of flux and separation of close lobes; what tells them apart are the images
before subtraction (Reiss 2016, DMTN-007). Their residuals count `PRE_WEIGHT` (1/4 of the chi^2), as their noise is that of
the difference again. Errors come from the noise of the two images, which are independent, through all three terms (`diffim.measurement.dipole_errors`),
and from what is not known of the PSF.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffim.measurement.dipole_errors import ImageBehind, covariance_through, images_behind
from diffim.pixels.masked_image import MaskedImage
from diffim.pixels.stamp_convolution import stamps_through
from exposure import Exposure
from exposure.photometry import position_basis, psf_at_fixed_pixel, psf_images
from exposure.photon_noise import MODEL
from exposure.psf import Psf
from exposure.stamps import sided
from tasks.arrays import F64, I64, nearest_pixels

__all__ = ["fit_dipoles", "measure_dipoles"]

SIDE, CORE = 25, 13  # px: of the stamps, and of their middle that tells where light is
PRE_WEIGHT = 0.25
ITERATIONS, ONE_FLUX = 25, 8
MAX_STEP, MAX_MOVE = 0.5, 4.0  # px
MAX_OFF = 2.0  # px that filters may move light by
MAX_SHARE = 0.65  # of the flux in one lobe
MIN_SNR = 5 * np.sqrt(2)
COLUMNS = (
    "dipoleMeanInstFlux", "dipoleMeanInstFluxErr", "dipoleDiffInstFlux", "dipoleDiffInstFluxErr",
    "dipoleLengthPixels", "dipoleAnglePixels", "dipoleChi2", "dipole_x", "dipole_y", "dipole_xErr", "dipole_yErr",
    "dipole_pos_x", "dipole_pos_y", "dipole_pos_instFlux", "dipole_pos_instFluxErr", "dipole_neg_x", "dipole_neg_y",
    "dipole_neg_instFlux", "dipole_neg_instFluxErr",
)  # fmt: skip


@dataclass(frozen=True)
class DipoleFits:
    """Fits of dipoles, one row a dipole.

    Parameters
    ----------
    parameters
        Shape (N, 6): fluxes F+, F- (counts), frame positions x+, y+, x-, y- (px).
    covariance
        Their covariance, shape (N, 6, 6).
    chi2, n_data
        Of the difference, shape (N,): chi^2, number of pixels.
    """

    parameters: F64
    covariance: F64
    chi2: F64
    n_data: I64


@dataclass(frozen=True)
class _Layer:
    """One of the three images on the stamps: data, inverse variance, PSF, its lobes, and its weight in the fit.

    Its lobes lie `off` px, shape (2, N), from where they are on the difference.
    """

    data: F64
    inverse: F64
    psf: Psf
    positive: bool
    negative: bool
    weight: float
    with_background: bool
    off: F64


def fit_dipoles(
    difference: Exposure,
    science: Exposure | None,
    template: Exposure | None,
    template_unit: float,
    positive: tuple[F64, F64],
    negative: tuple[F64, F64],
) -> DipoleFits:
    """Fit flux and position of both lobes.

    Parameters
    ----------
    science, template
        The images before subtraction, with PSF; without one of them the fit goes by the others.
    template_unit
        Factor from template counts to those of the difference.
    positive, negative
        First guesses of the lobes' frame positions (x, y), each of shape (N,), px.

    Returns
    -------
    fits
        Both fluxes are positive in a dipole.

    Notes
    -----
    Reiss 2016, DMTN-007: the joint fit of difference and pre-subtraction images.
    """
    (xp, yp), (xn, yn) = (tuple(a.astype(np.float64) for a in pair) for pair in (positive, negative))
    cx, cy = nearest_pixels(0.5 * (xp + xn)), nearest_pixels(0.5 * (yp + yn))
    layers = [_layer(difference, cx, cy, 1.0, True, True, 1.0, False)]
    if science is not None:
        layers.append(_layer(science, cx, cy, 1.0, True, False, PRE_WEIGHT, True))
    if template is not None:
        layer = _layer(template, cx, cy, template_unit, False, True, PRE_WEIGHT, True)
        layers.append(replace(layer, off=_moved(difference, template, cx, cy)))
    lobes = np.stack([xp, yp, xn, yn], axis=1)  # positions, px
    start, far = lobes.copy(), _farthest(lobes)[:, None]
    parameters = np.zeros((cx.size, 6))
    for turn in range(ITERATIONS):
        # first with one flux for both lobes: far from the solution two of them run away from each other
        design, solution, flux = _solve(layers, lobes, cx, cy, one_flux=turn < ONE_FLUX)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.nan_to_num(solution[:, 2:6] / np.repeat(np.where(flux > 0, flux, np.nan), 2, axis=1))
        step = np.clip(step, -MAX_STEP, MAX_STEP)
        lobes = np.clip(lobes + step, start - far, start + far)
        if turn >= ONE_FLUX and np.abs(step).max(initial=0) < 1e-4:
            break
    design, solution, _ = _solve(layers, lobes, cx, cy)
    parameters[:, :2], parameters[:, 2:] = solution[:, :2], lobes
    images = images_behind(difference, science, template, template_unit, (cx, cy), SIDE)
    covariance = _covariance(layers, design, solution[:, :2], images)
    noise = getattr(difference.psf, "photon_noise", None)
    if noise is not None:  # both lobes are off by the same share
        both = solution[:, :2, None] * solution[:, None, :2]
        covariance[:, :2, :2] += noise.at(cx, cy)[:, 0, MODEL, None, None] * both
    first = layers[0]
    model = np.einsum("nk,nkp->np", solution[:, :2], design[0][:, :2])
    chi2 = ((first.data - model) ** 2 * first.inverse).sum(1)
    return DipoleFits(parameters, covariance, chi2, (first.inverse > 0).sum(1))


def _farthest(start: F64) -> F64:
    """Return how far (N,) px lobes that begin at (x+, y+, x-, y-), shape (N, 4), may go.

    The brightest pixels of close lobes lie about a FWHM apart however close the lobes are: these may meet.
    """
    return np.maximum(MAX_MOVE, np.hypot(start[:, 0] - start[:, 2], start[:, 1] - start[:, 3]))


def _layer(
    e: Exposure, cx: I64, cy: I64, unit: float, positive: bool, negative: bool, weight: float, with_background: bool
) -> _Layer:
    """Return an image on the stamps (N, SIDE^2) around pixels (cx, cy), times `unit`."""
    data, variance = MaskedImage.of(e, "BAD", "CR", "SAT").stamps(cx, cy, SIDE)
    n = cx.size
    inverse = np.where(np.isfinite(variance), 1 / np.maximum(variance, 1e-30), 0).reshape(n, -1) / unit**2
    values, psf = unit * data.reshape(n, -1).astype(np.float64), e.require_psf()
    return _Layer(
        values, inverse.astype(np.float64), psf, positive, negative, weight, with_background, off=np.zeros((2, n))
    )


def _moved(difference: Exposure, template: Exposure, cx: I64, cy: I64) -> F64:
    """Return how far (2, N) px light of the template lies from where it is on the difference: the filters move it there.

    By a fit of the difference's PSF, which the lobes are measured with, to that light: centroids would go by faint wings of the kernel.
    """
    x, y = cx.astype(np.float64), cy.astype(np.float64)
    noise = getattr(difference.psf, "photon_noise", None)
    filters = None if noise is None else noise.filters_at(x, y)
    if filters is None:
        return np.zeros((2, cx.size))
    new, old = (psf_images(e.require_psf(), x, y) for e in (difference, template))
    light = sided(stamps_through(old, filters[:, 1].astype(np.float32)), CORE).reshape(cx.size, -1)
    basis = position_basis(sided(new, max(new.shape[-1], CORE)), CORE).reshape(3, cx.size, -1)
    normal, right = np.einsum("knp,lnp->nkl", basis, basis), np.einsum("knp,np->nk", basis, light)
    defined = np.isfinite(normal).all((1, 2)) & np.isfinite(right).all(1)
    fitted = np.linalg.solve(
        np.where(defined[:, None, None], normal, np.eye(3)), np.where(defined[:, None], right, 1)[..., None]
    )
    light_left = defined & (fitted[:, 0, 0] > 0)
    off = -fitted[:, 1:, 0].T / np.where(light_left, fitted[:, 0, 0], 1.0)
    return np.where(light_left, np.clip(off, -MAX_OFF, MAX_OFF), 0.0)


def _solve(layers: list[_Layer], lobes: F64, cx: I64, cy: I64, one_flux: bool = False) -> tuple[list[F64], F64, F64]:
    """One Gauss-Newton step: columns are F+, F-, F+ dx+, F+ dy+, F- dx-, F- dy- and three of background for each pre-image.

    Returns the designs, the solution (N, 6 + ...) and the fluxes (N, 2) with the lobes where they are.
    """
    n = cx.size
    g = np.arange(SIDE) - SIDE // 2
    plane = np.stack([np.ones((SIDE, SIDE)), *np.meshgrid(g / SIDE, g / SIDE)]).reshape(3, -1)
    extra = sum(3 for layer in layers if layer.with_background)
    normal, right, designs = np.zeros((n, 6 + extra, 6 + extra)), np.zeros((n, 6 + extra)), []
    column = 6
    for layer in layers:
        design = np.zeros((n, 6 + extra, SIDE * SIDE))
        for present, sign, k in ((layer.positive, 1.0, 0), (layer.negative, -1.0 if layer.positive else 1.0, 1)):
            if present:
                x, y = lobes[:, 2 * k] + layer.off[0], lobes[:, 2 * k + 1] + layer.off[1]
                stamps = psf_at_fixed_pixel(layer.psf, x, y, cx, cy)
                basis = (sign * sided(b, SIDE).reshape(n, -1) for b in position_basis(stamps, stamps.shape[-1]))
                design[:, k], design[:, 2 + 2 * k], design[:, 3 + 2 * k] = basis
        if layer.with_background:
            design[:, column : column + 3] = plane
            column += 3
        weighted = design * (layer.weight * layer.inverse)[:, None, :]
        normal += weighted @ design.transpose(0, 2, 1)
        right += (weighted @ layer.data[:, :, None])[..., 0]
        designs.append(design)
    normal = normal + 1e-9 * np.einsum("nkk->nk", normal)[:, :, None] * np.eye(6 + extra) + 1e-30 * np.eye(6 + extra)
    merge = np.eye(6 + extra)
    if one_flux:
        merge[1, 0] = 1.0
        merge = np.delete(merge, 1, axis=1)
    full = _solved(normal, right, merge)
    # the flux at this place, no lobe moved: the step in position is the ratio to that
    flux = _solved(normal, right, np.delete(merge, np.s_[merge.shape[1] - extra - 4 : merge.shape[1] - extra], axis=1))
    return designs, full, flux[:, :2]


def _solved(normal: F64, right: F64, merge: F64) -> F64:
    """Solve for some combinations of the parameters, given as the columns of `merge`."""
    reduced = np.linalg.solve(merge.T @ normal @ merge, (right @ merge)[:, :, None])[..., 0]
    return np.asarray(reduced @ merge.T)


def _covariance(
    layers: list[_Layer], designs: list[F64], flux: F64, images: tuple[ImageBehind, ImageBehind] | None
) -> F64:
    """Covariance of (F+, F-, x+, y+, x-, y-): noise of image and template through the weighted equations."""
    scale = np.ones((flux.shape[0], designs[0].shape[1]))
    scale[:, 2:4], scale[:, 4:6] = flux[:, :1], flux[:, 1:]
    jacobians = [d * scale[:, :, None] for d in designs]
    gains = [j * (layer.weight * layer.inverse)[:, None, :] for j, layer in zip(jacobians, layers, strict=True)]
    k = jacobians[0].shape[1]
    normal = sum(g @ j.transpose(0, 2, 1) for g, j in zip(gains, jacobians, strict=True))
    inverse = np.linalg.inv(normal + 1e-9 * np.einsum("nkk->nk", normal)[:, :, None] * np.eye(k) + 1e-30 * np.eye(k))
    weights = [inverse[:, :6] @ g for g in gains]
    if images is not None:
        return covariance_through(weights, images, SIDE)
    # noise of the difference = noise of the image minus that of the template; where one is absent its share is the rest
    total = np.where(layers[0].inverse > 0, 1 / np.maximum(layers[0].inverse, 1e-30), 0)
    parts: dict[bool, tuple[F64, F64]] = {}
    for layer, weight in zip(layers[1:], weights[1:], strict=True):
        own = np.where(layer.inverse > 0, 1 / np.maximum(layer.inverse, 1e-30), 0)
        parts[layer.positive] = (np.minimum(own, total), weight)
    noise = np.zeros((flux.shape[0], 6, 6))
    measured = sum((v for v, _ in parts.values()), np.zeros_like(total))
    for positive in (True, False):
        default = np.maximum(total - measured, 0) if parts and positive not in parts else 0.5 * total
        variance, weight = parts.get(positive, (default, np.zeros_like(weights[0])))
        onto = weight + (weights[0] if positive else -weights[0])
        noise += (onto * variance[:, None, :]) @ onto.transpose(0, 2, 1)
    return noise


def measure_dipoles(
    n: int,
    difference: Exposure,
    science: Exposure,
    template: Exposure,
    template_unit: float,
    positive: tuple[F64, F64],
    negative: tuple[F64, F64],
    rows: I64,
) -> pd.DataFrame:
    """Return the dipole columns of a table of `n` rows: those in `rows` (M,) are fitted, the others get NaN and False.

    Parameters are those of `fit_dipoles`; positions are those of the fitted rows, each of shape (M,), px.
    """
    columns: dict[str, NDArray[Any]] = {name: np.full(n, np.nan) for name in COLUMNS}
    columns |= {"dipoleNdata": np.zeros(n, np.int64)}
    columns |= {name: np.zeros(n, bool) for name in ("isDipole", "dipoleFitAttempted")}
    if rows.size == 0:
        return pd.DataFrame(columns)
    fits = fit_dipoles(difference, science, template, template_unit, positive, negative)
    p, cov = fits.parameters, fits.covariance
    plus, minus = p[:, 0], p[:, 1]
    error = np.sqrt(np.maximum(np.einsum("nkk->nk", cov), 0))
    both = 2 * cov[:, 0, 1]
    mean_error = 0.5 * np.sqrt(np.maximum(cov[:, 0, 0] + cov[:, 1, 1] + both, 0))
    diff_error = np.sqrt(np.maximum(cov[:, 0, 0] + cov[:, 1, 1] - both, 0))
    mean = 0.5 * (np.abs(plus) + np.abs(minus))
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.hypot(plus / error[:, 0], minus / error[:, 1])
        share = np.maximum(np.abs(plus), np.abs(minus)) / (2 * mean)
    start = np.column_stack([*positive, *negative])
    separation = np.hypot(p[:, 2] - p[:, 4], p[:, 3] - p[:, 5])
    lost = (np.abs(p[:, 2:6] - start) > MAX_MOVE - 1e-6).any(1)
    lost &= separation > np.hypot(*(start[:, :2] - start[:, 2:]).T)  # a lobe that would go on, to another star
    mid_error = [
        0.5 * np.sqrt(np.maximum(cov[:, k, k] + cov[:, k + 2, k + 2] + 2 * cov[:, k, k + 2], 0)) for k in (2, 3)
    ]
    values = {
        "dipoleMeanInstFlux": mean,
        "dipoleMeanInstFluxErr": mean_error,
        "dipoleDiffInstFlux": np.abs(plus) - np.abs(minus),
        "dipoleDiffInstFluxErr": diff_error,
        "dipoleLengthPixels": separation,
        "dipoleAnglePixels": np.arctan2(p[:, 3] - p[:, 5], p[:, 2] - p[:, 4]),
        "dipoleChi2": fits.chi2,
        "dipoleNdata": fits.n_data,
        "dipole_x": 0.5 * (p[:, 2] + p[:, 4]),
        "dipole_y": 0.5 * (p[:, 3] + p[:, 5]),
        "dipole_xErr": mid_error[0],
        "dipole_yErr": mid_error[1],
        "dipole_pos_x": p[:, 2],
        "dipole_pos_y": p[:, 3],
        "dipole_pos_instFlux": plus,
        "dipole_pos_instFluxErr": error[:, 0],
        "dipole_neg_x": p[:, 4],
        "dipole_neg_y": p[:, 5],
        "dipole_neg_instFlux": -minus,
        "dipole_neg_instFluxErr": error[:, 1],
        "isDipole": (plus > 0) & (minus > 0) & (share < MAX_SHARE) & (snr > MIN_SNR) & ~lost,
        "dipoleFitAttempted": True,
    }
    for name, value in values.items():
        columns[name][rows] = value
    return pd.DataFrame(columns)
