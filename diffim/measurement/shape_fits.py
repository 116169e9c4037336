"""How much narrower or wider than the PSF the light of a stamp is, by a linear fit of the PSF and its derivatives."""

import numpy as np

from tasks.arrays import F32, F64

__all__ = ["shape_fits"]

_NOTHING = 1e-30
_NO_DATA = 1e-14  # less noise than that has no pixel that was seen


def shape_fits(data: F32, sigma: F32, model: F32, fwhm: F64, where: F64, level: bool) -> dict[str, F64]:
    """Fit light that is the PSF, moved a little and convolved with a little Gaussian, to stamps.

    f P(x - d) convolved with a Gaussian of covariance C is f (P - d . grad P + 1/2 C : grad grad P) to second order; C may be
    negative: light that is narrower than the PSF, which nothing on the sky is. A track of a cosmic ray is so in one direction.

    Parameters
    ----------
    data, sigma, model
        Stamps (N, S, S): light, its noise (next to 0 where there are no data), the PSF.
    fwhm
        Shape (N,), px, of the PSF.
    where
        Shape (N, S * S), 1 for the pixels that are fitted, 0 for others.
    level
        Whether the light lies on a level of its own.

    Returns
    -------
    dict
        Arrays (N,): ``narrow`` and ``wide``, the smallest and largest eigenvalue of C in units of the PSF's variance;
        ``narrow_pull``, the smallest one in units of its error; ``moved``, |d| in FWHM; ``gain``, by how much the terms of
        shape and place lower chi^2, as a share of all that the fit explains (log10); ``rest``, the reduced chi^2 that is left
        (log10).
    """
    n, count, side = len(data), 6 + level, data.shape[-1]
    fitted = where.reshape(n, side, side)
    low = int(np.argmax(fitted.any((0, 1)))) if n else 0
    core = np.s_[:, low : side - low, low : side - low]
    edge = max(low - 1, 0)  # one more for the differences
    terms = _terms(model[:, edge : side - edge, edge : side - edge], level)
    terms = terms[:, :, low - edge : side - low - edge, low - edge : side - low - edge].reshape(n, count, -1)
    flat, noise = (a[core].reshape(n, -1).astype(np.float64) for a in (data, sigma))
    weight = np.where(noise > _NO_DATA, fitted[core].reshape(n, -1) / np.maximum(noise, _NO_DATA) ** 2, 0.0)
    weighted = terms * weight[:, None, :]
    normal, right = weighted @ terms.transpose(0, 2, 1), np.einsum("nkp,np->nk", weighted, flat)
    size = np.sqrt(np.maximum(np.einsum("nkk->nk", normal), _NOTHING))
    normal = normal / size[:, :, None] / size[:, None, :] + 1e-9 * np.eye(count)  # never singular
    right /= size
    inverse = np.linalg.inv(normal)
    pull = np.einsum("nkl,nl->nk", inverse, right)
    value, error = pull / size, np.sqrt(np.maximum(np.einsum("nkk->nk", inverse), 0)) / size
    worth, own = np.einsum("nk,nk->n", pull, right), np.einsum("np,np->n", weight * flat, flat)
    left = np.maximum(own - worth, 0) / np.maximum((weight > 0).sum(1) - count, 1)
    gain = (worth - _plain(right, normal, level)) / np.maximum(worth, _NOTHING)
    flux = np.where(np.abs(value[:, 0]) < _NOTHING, _NOTHING, value[:, 0])
    return _of_covariance(value / flux[:, None], error / np.abs(flux)[:, None], fwhm) | {
        "moved": np.clip(np.hypot(value[:, 1], value[:, 2]) / np.abs(flux) / fwhm, 0, 3),
        "gain": np.log10(np.clip(gain, 1e-4, 1)),
        "rest": np.log10(np.clip(left, 1e-2, 1e6)),
    }


def _of_covariance(value: F64, error: F64, fwhm: F64) -> dict[str, F64]:
    """Return what the terms (N, 6) of a unit of flux and their errors say of the covariance, in units of the PSF's variance."""
    unit = (fwhm / 2.3548) ** 2
    xx, yy, xy = 2 * value[:, 3] / unit, 2 * value[:, 4] / unit, value[:, 5] / unit
    mean, root = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    spread = 2 * np.maximum(error[:, 3], error[:, 4]) / unit
    return {
        "narrow": np.clip(mean - root, -3, 3),
        "wide": np.clip(mean + root, -3, 9),
        "narrow_pull": np.arcsinh((mean - root) / np.maximum(spread, _NOTHING)),
    }


def _terms(model: F32, level: bool) -> F64:
    """Return the PSF, its derivatives by x, y, xx, yy, xy and, where asked for, a level: (N, 6 or 7, S, S)."""
    p = model.astype(np.float64)
    y, x = np.gradient(p, axis=(1, 2))
    xx, yy = (np.moveaxis(_bend(np.moveaxis(p, k, 0)), 0, k) for k in (2, 1))
    xy = np.gradient(x, axis=1)
    parts = [p, x, y, xx, yy, xy]
    return np.stack([*parts, np.ones_like(p)] if level else parts, axis=1)


def _bend(p: F64) -> F64:
    """Return second differences along the first axis; a rim has those of the pixels next to it."""
    inner = p[:-2] + p[2:] - 2 * p[1:-1]
    return np.concatenate([inner[:1], inner, inner[-1:]])


def _plain(right: F64, normal: F64, level: bool) -> F64:
    """Return how much of chi^2 (N,) the PSF alone, on its level, explains."""
    which = np.array([0, 6] if level else [0])
    some = right[:, which]
    return np.asarray(np.einsum("nk,nkl,nl->n", some, np.linalg.inv(normal[:, which[:, None], which]), some))
