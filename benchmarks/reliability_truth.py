"""What is put on images by way of changes and damage, and which detection is which: labels come from what was put where."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from calibration import ReferenceStars
from exposure import Exposure, SkyWcs
from exposure.psf import fwhm_of
from simulation.artefacts import KINDS, Labels, damage, move_stars, spoil_wings

__all__ = [
    "OTHER",
    "REAL",
    "UNKNOWN",
    "TemplateFrames",
    "add_changes",
    "damaged_frame",
    "labelled",
    "spoiled_stars",
    "within",
]

F64 = NDArray[np.float64]
REAL = ("sky", "host", "nucleus", "star")  # what a change may lie on
OTHER, UNKNOWN = "residual", "unknown"  # nothing was put there; nobody can know
USUAL = 500_000.0  # px that get the usual number of artefacts


@dataclass
class TemplateFrames:
    """The coadd, its frames' damage and the stars of its frames."""

    coadd: Exposure
    frames: list[tuple[SkyWcs, Labels]]
    stars: ReferenceStars | None
    number: int


def _sigma(e: Exposure) -> float:
    """Noise of the sky, from the differences of neighbours."""
    steps = np.abs(np.diff(e.image.astype(np.float64), axis=1))
    return float(1.4826 * np.nanmedian(steps) / np.sqrt(2))


def damaged_frame(e: Exposure, fwhm: float, kinds: tuple[str, ...], rng: np.random.Generator) -> Labels:
    """Add artefacts; the variance plane holds the noise of their light, as one made of the pixels would."""
    before = e.image.copy()
    labels = damage(e.image, _sigma(e), fwhm, kinds, rng, e.image.size / USUAL)
    _add_noise_of_light(e, e.image - before)
    return labels


def _add_noise_of_light(e: Exposure, light: NDArray[np.float32]) -> None:
    gain = max(float(e.metadata.get("gain", 1.0)), 1e-6)
    e.variance += np.maximum(light, 0) / np.float32(gain)


def spoiled_stars(
    e: Exposure, stars: pd.DataFrame, bright: pd.DataFrame, labels: Labels, fwhm: float, rng: np.random.Generator
) -> Labels:
    """Move some stars and change the haloes of the brightest, in place; returns the labels with those."""
    inside = stars[within(e, stars, 15)]
    able = inside[inside.flux > 40 * _sigma(e) * fwhm]
    moved = able.sample(min(len(able), int(14 * e.image.size / USUAL) + 1), random_state=rng)
    turn, length = rng.uniform(0, 2 * np.pi, len(moved)), 10 ** rng.uniform(-1.3, -0.2, len(moved)) * fwhm
    x, y, flux = (moved[c].to_numpy(np.float64) for c in ("x", "y", "flux"))
    dx, dy = length * np.cos(turn), length * np.sin(turn)
    if len(moved):
        psf, light = e.require_psf(), flux.astype(np.float32)[:, None, None]
        places = ((x, y), (x + dx, y + dy))
        stamps = [(light * psf.image_at(px + e.origin[0], py + e.origin[1]), px, py) for px, py in places]
        extra = move_stars(e.image, *stamps, _sigma(e), fwhm)
        labels = np.where(labels > 0, labels, extra)
    bright, before = bright[within(e, bright, 0)].nlargest(5, "flux"), e.image.copy()
    extra = spoil_wings(e.image, *(bright[c].to_numpy(np.float64) for c in ("x", "y", "flux")), _sigma(e), fwhm, rng)
    _add_noise_of_light(e, e.image - before)
    return np.where(labels > 0, labels, extra)


def within(e: Exposure, t: pd.DataFrame, margin: float) -> pd.Series:
    return t.x.between(margin, e.width - 1 - margin) & t.y.between(margin, e.height - 1 - margin)


def add_changes(
    e: Exposure,
    stars: pd.DataFrame,
    hosts: pd.DataFrame | None,
    template: TemplateFrames,
    fwhm: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Put sources on the image, in place: on the sky, near and on the nuclei of galaxies, and on stars, which may fade too.

    Returns their table: x, y (frame px), kind, sign, snr (as a sky-limited difference would have it).
    """
    share = e.image.size / USUAL
    n = max(3, round(14 * share))
    parts = [
        pd.DataFrame({"x": rng.uniform(8, e.width - 8, 2 * n), "y": rng.uniform(8, e.height - 8, 2 * n), "kind": "sky"})
    ]
    if hosts is not None:
        inside = hosts[within(e, hosts, 12)]
        chosen = inside.sample(min(2 * n, len(inside)), random_state=rng).reset_index(drop=True)
        off = np.where(chosen.index < n, chosen.re.to_numpy(), 0.15) * rng.normal(size=(2, len(chosen)))
        kind = np.where(chosen.index < n, "host", "nucleus")
        parts.append(pd.DataFrame({"x": chosen.x + off[0], "y": chosen.y + off[1], "kind": kind}))
    inside = stars[within(e, stars, 12)]
    chosen = inside.sample(min(2 * n, len(inside)), random_state=rng)
    parts.append(pd.DataFrame({"x": chosen.x, "y": chosen.y, "kind": "star", "most": chosen.flux}))
    t = pd.concat(parts, ignore_index=True)
    t = t[within(e, t, 6)].reset_index(drop=True)
    if "most" not in t:
        t["most"] = np.nan
    x, y = t.x.to_numpy(np.float64), t.y.to_numpy(np.float64)
    stamps = e.require_psf().image_at(x + e.origin[0], y + e.origin[1])
    area = 1 / (stamps.astype(np.float64) ** 2).sum((1, 2))
    variance = e.variance[np.rint(y).astype(int), np.rint(x).astype(int)].astype(np.float64)
    t["snr"] = 10 ** np.where(rng.random(len(t)) < 0.6, rng.uniform(0.75, 1.5, len(t)), rng.uniform(0.9, 2.4, len(t)))
    fades = (t.kind == "star") & (rng.random(len(t)) < 0.5)
    t["sign"] = np.where(fades, -1.0, 1.0)
    flux = t.snr * np.sqrt(area * variance * (1 + 1 / template.number))
    t["flux"] = np.where(fades, np.minimum(flux, t.most), flux)
    t["snr"] *= t.flux / flux
    t = t[np.isfinite(t.flux)]
    gain = max(float(e.metadata.get("gain", 1.0)), 1e-6)
    light = (t.flux * t.sign).to_numpy(np.float32)[:, None, None] * stamps[t.index]
    light += np.where(light > 0, rng.normal(size=light.shape) * np.sqrt(np.maximum(light, 0) / gain), 0).astype(
        np.float32
    )
    half = stamps.shape[-1] // 2
    for stamp, px, py in zip(light, np.rint(t.x).astype(int), np.rint(t.y).astype(int), strict=True):
        rows, columns = np.mgrid[py - half : py + half + 1, px - half : px + half + 1]
        ok = (rows >= 0) & (columns >= 0) & (rows < e.height) & (columns < e.width)
        e.image[rows[ok], columns[ok]] += stamp[ok]
        e.variance[rows[ok], columns[ok]] += np.maximum(stamp[ok], 0) / np.float32(gain)
    return t.assign(x=t.x + e.origin[0], y=t.y + e.origin[1]).reset_index(drop=True)


def labelled(
    d: Exposure,
    t: pd.DataFrame,
    template: TemplateFrames,
    labels: Labels,
    truth: pd.DataFrame,
    catalogue: pd.DataFrame | None,
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return the kind (N,) of each detection, and of each row of the truth the detection that it is, -1 for none."""
    x, y = t.x.to_numpy(np.float64), t.y.to_numpy(np.float64)
    number = _at(labels, x - d.origin[0], y - d.origin[1])
    sky = d.require_wcs().pixel_to_sky(x, y)
    for wcs, frame in template.frames:
        other = _at(frame, *wcs.sky_to_pixel(*sky))
        number = np.where(number > 0, number, other)
    kind = np.array(KINDS, dtype="U24")[number]
    kind[number == 0] = OTHER
    fwhm = float(np.median(fwhm_of(d.require_psf().moments_at(x, y)))) if len(t) else 1.0
    if catalogue is not None and len(t):  # on stars of real images it may be a star that varied
        distance, _ = cKDTree(catalogue[["x", "y"]]).query(t[["x", "y"]])
        kind[((distance < 1.5 * fwhm) | _on_both(t)) & (number == 0)] = UNKNOWN
    matched = np.full(len(truth), -1)
    if len(truth) and len(t):
        distance, row = cKDTree(truth[["x", "y"]]).query(t[["x", "y"]])
        near = distance < max(1.5, 0.5 * fwhm)
        near &= t.peakSign.to_numpy() == truth.sign.to_numpy()[row]
        order = np.lexsort((distance, ~near, row))
        first = np.zeros(len(t), bool)
        first[order] = np.r_[True, row[order][1:] != row[order][:-1]]
        real = near & first & (truth.snr.to_numpy()[row] > 4)
        matched[row[near & first]] = np.flatnonzero(near & first)
        kind[distance < 3 * fwhm] = UNKNOWN
        clear = real & (number == 0) & _has_the_flux(t, truth.iloc[row])
        kind[clear] = truth.kind.to_numpy(str)[row[clear]]
    return kind, matched


def _on_both(t: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which detections (N,) are on light that both images have, whether a catalogue holds it or not."""
    images = [t[f"{name}InstFlux"] / t[f"{name}InstFluxErr"] for name in ("science", "template")]
    return np.asarray((images[0] > 10) & (images[1] > 10))


def _has_the_flux(t: pd.DataFrame, put: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which detections (N,) have the flux of what was put there (one row for each), to 30 % or five errors.

    Another flux is something else: a star of two seasons that moved far by itself, an image whose PSF is wrong.
    """
    meant, flux, error = (put.flux * put.sign).to_numpy(), t.psfInstFlux.to_numpy(), t.psfInstFluxErr.to_numpy()
    return np.asarray(np.abs(flux - meant) < np.maximum(0.3 * np.abs(meant), 5 * error))


def _at(labels: Labels, x: F64, y: F64) -> NDArray[np.int64]:
    """Return the numbers of a map at array positions (N,), 0 outside of it."""
    ix, iy = np.rint(np.nan_to_num(x, nan=-9)).astype(int), np.rint(np.nan_to_num(y, nan=-9)).astype(int)
    ok = (ix >= 0) & (iy >= 0) & (ix < labels.shape[1]) & (iy < labels.shape[0])
    out = np.zeros(len(ix), np.int64)
    out[ok] = labels[iy[ok], ix[ok]]
    return out
