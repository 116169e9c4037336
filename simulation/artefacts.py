"""What is on images and not on the sky: damage that is added to an image, and a map of where it is.

Sizes are in FWHM of the image's stars and brightnesses in standard deviations of its sky, so that one recipe does for every camera.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from tasks.arrays import F32, F64, U8

__all__ = ["FRAME_KINDS", "SCIENCE_KINDS", "STAR_KINDS", "Labels", "damage", "move_stars", "spoil_wings"]

Labels = U8
SCIENCE_KINDS = ("hot pixel", "cosmic ray", "bad column", "ghost", "donut", "satellite trail")
FRAME_KINDS = ("template hole", "template cosmic ray", "coadd seam")  # on the frames that a template is made of
STAR_KINDS = ("saturated wing", "moved star")
KINDS = ("", *SCIENCE_KINDS, *FRAME_KINDS, *STAR_KINDS)  # the place of a name is its number in a map
VISIBLE = 0.7  # sigma of a pixel from which on damage counts as being there


def damage(
    image: F32, sigma: float, fwhm: float, kinds: Sequence[str], rng: np.random.Generator, share: float = 1.0
) -> Labels:
    """Add artefacts to an image, in place, and return where they are: numbers of `KINDS`, shape of the image.

    Parameters
    ----------
    image
        Shape (height, width); need not be free of sky.
    sigma
        Noise of its sky, in its units.
    fwhm
        Of its stars, px.
    share
        Of the usual number, for frames that do not get the usual crowd of them.
    """
    labels = np.zeros(image.shape, np.uint8)
    for kind in kinds:
        added = np.zeros(image.shape, np.float32)
        _MAKERS[kind](added, fwhm, rng, share)
        if kind == "template hole":
            here = added != 0
            added[here] -= (image[here] - np.float32(np.median(image))) / np.float32(sigma)  # the hole has no stars
        image += np.float32(sigma) * added
        mark(labels, added, kind, fwhm)
    return labels


def mark(labels: Labels, added: F32, kind: str, fwhm: float) -> None:
    """Number, in place, the pixels near which an artefact is seen; `added` is in sigma of the sky."""
    side = 2 * max(1, round(fwhm)) + 1
    visible = np.abs(added) > VISIBLE
    if kind == "coadd seam":  # a step is seen where it is
        visible[:-1] = np.abs(np.diff(added, axis=0)) > 0.5 * VISIBLE
        visible[:, :-1] |= np.abs(np.diff(added, axis=1)) > 0.5 * VISIBLE
        visible[-1], visible[:, -1] = False, False
    seen = cv2.dilate(visible.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    labels[seen] = KINDS.index(kind)


def move_stars(image: F32, old: tuple[F32, F64, F64], new: tuple[F32, F64, F64], sigma: float, fwhm: float) -> Labels:
    """Take stars away and put them where they moved to, in place; returns where they are.

    `old` and `new` are stamps (N, S, S) of their light and the positions (N,) that these are of: the stamps are centred on
    the pixels nearest to those.
    """
    added = np.zeros(image.shape, np.float32)
    for sign, (stamps, x, y) in ((-1, old), (1, new)):
        for stamp, px, py in zip(stamps, np.rint(x).astype(int), np.rint(y).astype(int), strict=True):
            _paste(added, sign * stamp, px, py)
    image += added
    labels = np.zeros(image.shape, np.uint8)
    mark(labels, added / np.float32(sigma), "moved star", fwhm)
    return labels


def spoil_wings(image: F32, x: F64, y: F64, flux: F64, sigma: float, fwhm: float, rng: np.random.Generator) -> Labels:
    """Change the haloes of very bright stars (N,), as other turbulence and other reflections do, and give some of them spikes."""
    added = np.zeros(image.shape, np.float32)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    for sx, sy, f in zip(x, y, flux, strict=True):
        r = np.hypot(columns - np.float32(sx), rows - np.float32(sy)) / np.float32(fwhm)
        share = rng.choice([-1.0, 1.0]) * 10 ** rng.uniform(-3.3, -2.0)
        halo = share * f / fwhm**2 * 0.02 / (0.2 + (r / rng.uniform(2, 5)) ** 3)
        if rng.random() < 0.5:
            turn = rng.choice([0.0, rng.uniform(0, np.pi / 2)])
            c, s = np.cos(turn), np.sin(turn)
            u, v = c * (columns - sx) + s * (rows - sy), c * (rows - sy) - s * (columns - sx)
            width = max(0.5, 0.25 * fwhm)
            for along, across in ((u, v), (v, u)):
                halo = halo + abs(share) * f / fwhm**2 * np.exp(
                    -0.5 * (across / width) ** 2 - np.abs(along) / (6 * fwhm)
                )
        added += np.where(r < 25, halo, 0).astype(np.float32)
    image += added
    labels = np.zeros(image.shape, np.uint8)
    mark(labels, added / np.float32(sigma), "saturated wing", fwhm)
    return labels


def _paste(image: F32, stamp: F32, x: int, y: int) -> None:
    """Add a square stamp at a pixel, as far as it is on the image."""
    half, (height, width) = stamp.shape[0] // 2, image.shape
    top, left = max(y - half, 0), max(x - half, 0)
    bottom, right = min(y + half + 1, height), min(x + half + 1, width)
    if top < bottom and left < right:
        image[top:bottom, left:right] += stamp[top - y + half : bottom - y + half, left - x + half : right - x + half]


def _number(rng: np.random.Generator, usual: float, share: float) -> int:
    return int(rng.poisson(usual * share))


def _hot_pixels(added: F32, fwhm: float, rng: np.random.Generator, share: float) -> None:
    """Pixels, some of them in pairs, that resampling or smoothing has smeared."""
    height, width = added.shape
    for _ in range(_number(rng, 30, share)):
        x, y = int(rng.integers(3, width - 3)), int(rng.integers(3, height - 3))
        spot = np.zeros((31, 31), np.float32)
        spot[15, 15] = 10 ** rng.uniform(0.9, 2.3)
        if rng.random() < 0.3:
            spot[15 + int(rng.integers(0, 2)), 16] = spot[15, 15] * rng.uniform(0.2, 1)
        if rng.random() < 0.7:
            spot = np.asarray(cv2.GaussianBlur(spot, (0, 0), rng.uniform(0.08, 0.22) * fwhm), np.float32)
        _paste(added, spot, x, y)


def _tracks(added: F32, fwhm: float, rng: np.random.Generator, share: float) -> None:
    """Cosmic rays: short tracks of one pixel's width."""
    height, width = added.shape
    for _ in range(_number(rng, 24, share)):
        x, y, turn = rng.uniform(4, width - 5), rng.uniform(4, height - 5), rng.uniform(0, np.pi)
        s = np.arange(0, 1 + rng.exponential(4), 0.5)
        columns = np.clip((x + s * np.cos(turn)).astype(int), 0, width - 1)
        rows = np.clip((y + s * np.sin(turn)).astype(int), 0, height - 1)
        added[rows, columns] += np.float32(10 ** rng.uniform(0.9, 2.2))


def _bad_columns(added: F32, fwhm: float, rng: np.random.Generator, share: float) -> None:
    height, width = added.shape
    for _ in range(_number(rng, 2, share)):
        x, start = int(rng.integers(2, width - 4)), int(rng.integers(0, height - 20))
        length, value = int(rng.integers(15, height)), rng.choice([-1, 1]) * 10 ** rng.uniform(0.2, 1.0)
        wide = 1 + int(rng.random() < 0.3)
        added[start : start + length, x : x + wide] += np.float32(value)


def _ghosts(added: F32, fwhm: float, rng: np.random.Generator, share: float) -> None:
    """Large faint discs and rings of light reflected between surfaces."""
    for _ in range(_number(rng, 0.7, share)):
        _ring(
            added,
            rng.uniform(6, 20) * fwhm,
            rng.choice([0.0, rng.uniform(0.3, 0.9)]),
            10 ** rng.uniform(-0.2, 0.8),
            rng,
        )


def _donuts(added: F32, fwhm: float, rng: np.random.Generator, share: float) -> None:
    """Pupil images of stars, and shadows of dust."""
    for _ in range(_number(rng, 5, share)):
        sign = rng.choice([-1, 1])
        _ring(added, rng.uniform(1.3, 5) * fwhm, rng.uniform(0.3, 0.6), sign * 10 ** rng.uniform(-0.2, 1.0), rng)


def _ring(added: F32, radius: float, hole: float, value: float, rng: np.random.Generator) -> None:
    """Add a disc with a hole (a share of its radius, which may be off its middle) and soft edges."""
    height, width = added.shape
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    soft = max(0.5, 0.06 * radius)
    off = rng.uniform(-0.1, 0.1, 2) * radius
    outer = 1 / (1 + np.exp(np.clip((np.hypot(columns - x, rows - y) - radius) / soft, -30, 30)))
    r = np.hypot(columns - x - off[0], rows - y - off[1])
    inner = 1 / (1 + np.exp(np.clip((r - hole * radius) / soft, -30, 30))) if hole else 0.0
    added += np.float32(value) * np.maximum(outer - inner, 0).astype(np.float32)


def _trails(added: F32, fwhm: float, rng: np.random.Generator, share: float) -> None:
    """Satellites: straight lines across the image, as wide as the seeing or wider."""
    height, width = added.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(_number(rng, 0.5, share)):
        turn, x, y = rng.uniform(0, np.pi), rng.uniform(0, width), rng.uniform(0, height)
        across = (columns - x) * np.sin(turn) - (rows - y) * np.cos(turn)
        wide = fwhm / 2.355 * rng.choice([1.0, rng.uniform(1, 3)])
        added += np.float32(10 ** rng.uniform(-0.3, 0.9)) * np.exp(-0.5 * (across / wide) ** 2).astype(np.float32)


def _holes(added: F32, fwhm: float, rng: np.random.Generator, share: float) -> None:
    """Patches that hold a number and no data; what is returned is that number, never quite 0."""
    height, width = added.shape
    for _ in range(_number(rng, 24, share)):
        w, h = (int(v) for v in np.maximum(1, rng.uniform(0.3, 3, 2) * fwhm))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        value = rng.choice([0.01, rng.uniform(-12, -1), rng.uniform(1, 8)])
        added[y : y + h, x : x + w] = np.float32(value)


def _seams(added: F32, fwhm: float, rng: np.random.Generator, share: float) -> None:
    """Steps of the sky at the borders of amplifiers or frames."""
    height, width = added.shape
    for _ in range(_number(rng, 1.2, share)):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        across, up = rng.choice([0, 1], 2)
        rows = slice(y, height) if up else slice(0, height)
        columns = slice(x, width) if across else slice(0, width)
        added[rows, columns] += np.float32(rng.choice([-1, 1]) * rng.uniform(0.5, 4))


_MAKERS = {
    "hot pixel": _hot_pixels,
    "cosmic ray": _tracks,
    "bad column": _bad_columns,
    "ghost": _ghosts,
    "donut": _donuts,
    "satellite trail": _trails,
    "template hole": _holes,
    "template cosmic ray": _tracks,
    "coadd seam": _seams,
}
