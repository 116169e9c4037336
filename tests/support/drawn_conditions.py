"""Pairs of images under conditions that are drawn at random: size and shape of both PSFs, both skies, and what the template is of.

What is in them is known, so that a subtraction that went wrong without a word can be counted.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from calibration.characterize import characterize
from diffim import ImageDifferenceTask
from exposure import Exposure, PhotoCalib, SkyWcs, VisitInfo, load_instrument
from tasks import AlertProdError, make_task

__all__ = ["Conditions", "Outcome", "drawn", "outcome"]

SIDE, PAD = 448, 40
SKY, READ_NOISE = 900.0, 6.0  # electrons
UNIT = 1 / 1.3  # counts of the image per count of the template
TRANSIENTS = 16
Array = NDArray[np.float64]
Profile = Callable[[float, float], Array]
"""A source's light at a sub-pixel shift (dx, dy), on a stamp whose sum is about 1."""


@dataclass(frozen=True)
class Conditions:
    """One draw: FWHM in px, shapes, numbers of sources, what is on the sky of the image, and what the template is of."""

    seed: int
    science_fwhm: float
    template_fwhm: float
    science_shape: str
    template_shape: str
    ellipticity: float
    n_stars: int
    n_galaxies: int
    sky: str
    strength: float
    depth: float
    template: str
    shift: tuple[int, int]

    def __str__(self) -> str:
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))


def drawn(seed: int) -> Conditions:
    """Return the conditions of a seed; two thirds have a template that is right."""
    rng = np.random.default_rng([seed, 25])
    wide = rng.uniform() < 0.3
    science, template = rng.uniform(2.6, 12.0 if wide else 5.5, 2)
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(3.5, 20)
    return Conditions(
        seed=seed,
        science_fwhm=round(float(science), 2),
        template_fwhm=round(float(template), 2),
        science_shape=str(rng.choice(["round", "round", "elliptic", "donut", "trailed"])),
        template_shape=str(rng.choice(["round", "round", "round", "elliptic"])),
        ellipticity=round(float(rng.uniform(0.1, 0.4)), 2),
        n_stars=int(10 ** rng.uniform(1.3, 2.5)),
        n_galaxies=int(10 ** rng.uniform(0, 2)),
        sky=str(rng.choice(["flat", "flat", "gradient", "fringes", "nebula", "steps", "cloud"])),
        strength=round(float(rng.uniform(0.1, 1.0)), 2),
        depth=round(float(10 ** rng.uniform(-0.5, 1)), 2),
        template=str(rng.choice(["right", "right", "right", "right", "shifted", "other", "mirrored"])),
        shift=(round(far * np.cos(angle)), round(far * np.sin(angle))),
    )


@dataclass(frozen=True)
class Outcome:
    """What a subtraction made of a draw: the code of its error or "", and how it compares with the truth."""

    error: str
    false: int = 0
    missed: float = 0.0
    bias: float = 0.0
    kernel: float = 0.0
    problems: str = ""

    @property
    def silent_collapse(self) -> bool:
        """Whether the result is wrong, and nobody said so: real ones missed, false ones found, fluxes off, kernel off."""
        wrong = self.false > 12 or self.missed > 0.5 or abs(self.bias) > 0.2 or abs(self.kernel) > 0.25
        return not self.error and wrong


def _psf(shape: str, fwhm: float, ellipticity: float, half: int) -> Profile:
    """Return a function (dx, dy) -> stamp of sum about 1."""
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / 3.3) - 1))

    def moffat(dx: float, dy: float, e: float = 0.0) -> Array:
        g = np.arange(-half, half + 1.0)
        x, y = g[None, :] - dx, g[:, None] - dy
        square = ((1 - e) * x**2 + (1 + e) * y**2) / np.sqrt(1 - e * e) / alpha**2
        return np.asarray((2.3 / (np.pi * alpha**2)) * (1 + square) ** -3.3)

    def profile(dx: float, dy: float) -> Array:
        if shape == "elliptic":
            return moffat(dx, dy, ellipticity)
        if shape == "trailed":
            steps = np.linspace(-0.5, 0.5, 7) * 1.2 * fwhm
            return np.mean([moffat(dx + 0.8 * s, dy + 0.6 * s) for s in steps], axis=0)
        if shape == "donut":
            turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            return np.mean([moffat(dx + 0.7 * fwhm * np.cos(t), dy + 0.7 * fwhm * np.sin(t)) for t in turns], axis=0)
        return moffat(dx, dy)

    return profile


class _Field:
    """The light of a field in electrons, rendered with any PSF on the frame with its border."""

    def __init__(self, c: Conditions, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self.side = SIDE + 2 * PAD
        self.stars = rng.uniform(4, self.side - 5, (2, c.n_stars))
        self.flux = np.minimum(1500 * rng.uniform(size=c.n_stars) ** (-1 / 0.8), 4e5) * max(c.science_fwhm / 4, 1)
        self.galaxies = rng.uniform(20, self.side - 21, (2, c.n_galaxies))
        self.galaxy_flux = np.minimum(1500 * rng.uniform(size=c.n_galaxies) ** (-1 / 0.9), 1e5)
        self.radius = rng.uniform(1.2, 5.0, c.n_galaxies)
        k = np.hypot(np.fft.rfftfreq(self.side)[None], np.fft.fftfreq(self.side)[:, None])
        k[0, 0] = 1
        noise = np.fft.rfft2(rng.standard_normal((self.side, self.side)))
        cloud = np.fft.irfft2(noise * k**-2.2 * (k > 2 / self.side), (self.side, self.side))
        self.nebula = 300 * c.strength * np.exp(0.8 * cloud / cloud.std()) if c.sky == "nebula" else None

    def render(self, profile: Profile, half: int) -> Array:
        image = np.zeros((self.side, self.side))
        for x, y, flux in zip(*self.stars, self.flux, strict=True):
            add(image, profile, x, y, flux, half)
        smooth = np.zeros_like(image)
        for x, y, flux, radius in zip(*self.galaxies, self.galaxy_flux, self.radius, strict=True):
            add(smooth, lambda dx, dy, r=radius: _disc(dx, dy, r), x, y, flux, 20)
        if self.nebula is not None:
            smooth += self.nebula
        return image + fftconvolve(smooth, profile(0, 0), "same")


def _disc(dx: float, dy: float, radius: float) -> Array:
    g = np.arange(-20, 21.0)
    light = np.exp(-np.hypot(g[None, :] - dx, g[:, None] - dy) / radius)
    return np.asarray(light / light.sum())


def add(image: Array, profile: Profile, x: float, y: float, flux: float, half: int) -> None:
    """Add a source, cut at the edges."""
    ix, iy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    stamp = flux * profile(x - ix, y - iy)
    low_x, low_y = max(ix - half, 0), max(iy - half, 0)
    high_x, high_y = min(ix + half + 1, image.shape[1]), min(iy + half + 1, image.shape[0])
    part = stamp[low_y - iy + half : high_y - iy + half, low_x - ix + half : high_x - ix + half]
    image[low_y:high_y, low_x:high_x] += part


def _sky(c: Conditions) -> Array:
    v, u = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    if c.sky == "gradient":
        return np.asarray(SKY * (1 + c.strength * (u + 0.6 * v)))
    if c.sky == "fringes":
        return np.asarray(SKY * (1 + 0.03 * c.strength * np.sin(2 * np.pi * (8 * u + 2 * v + 0.5 * np.sin(5 * v)))))
    if c.sky == "steps":
        return np.asarray(SKY + 20 * c.strength * (-1.0) ** np.floor(8 * u))
    return np.full((SIDE, SIDE), SKY)


def _exposure(image: Array, variance: Array, scale: float, number: int, origin: tuple[int, int]) -> Exposure:
    wcs = SkyWcs.tan(((SIDE - 1) / 2, (SIDE - 1) / 2), (150.0, 2.0), [[-0.2 / 3600, 0], [0, 0.2 / 3600]])
    e = Exposure(
        (scale * image).astype("f4"),
        (scale**2 * variance).astype("f4"),
        np.zeros(image.shape, np.int32),
        origin,
        wcs,
        None,
        PhotoCalib(1.6 / scale),
        VisitInfo(number, 0, 61000.0 + number, 30.0),
        "r",
        "r_sim",
    )
    e.metadata["saturation"] = 1e7
    return e


def _pair(c: Conditions) -> tuple[Exposure, Exposure, Array]:
    """Return image, template, and the transients (N, 4): x, y (px), flux (electrons), S/N."""
    rng = np.random.default_rng([c.seed, 2])
    half = int(min(5 * max(c.science_fwhm, c.template_fwhm) + 4, PAD + 20))
    profiles = (
        _psf(c.science_shape, c.science_fwhm, c.ellipticity, half),
        _psf(c.template_shape, c.template_fwhm, -c.ellipticity, half),
    )
    field = _Field(c, c.seed)
    light = field.render(profiles[0], half)[PAD:-PAD, PAD:-PAD]
    old = (field if c.template != "other" else _Field(c, c.seed + 10**6)).render(profiles[1], half)
    old_variance = (old + SKY + READ_NOISE**2) / c.depth
    old = old + rng.standard_normal(old.shape) * np.sqrt(old_variance)
    if c.template == "shifted":
        old, old_variance = (np.roll(a, c.shift, (1, 0)) for a in (old, old_variance))
    if c.template == "mirrored":
        old, old_variance = old[:, ::-1], old_variance[:, ::-1]
    transients = []
    area = 1 / (profiles[0](0, 0) ** 2).sum()
    while len(transients) < TRANSIENTS:
        x, y = rng.uniform(40, SIDE - 41, 2)
        if all(np.hypot(x - t[0], y - t[1]) > 30 for t in transients):
            snr = 10 ** rng.uniform(1.1, 2.0)
            noise = SKY * (1 + 1 / c.depth) + (1 + 1 / c.depth) * light[int(y), int(x)]
            transients.append((x, y, snr * np.sqrt(noise * area), snr))
    made = np.array(transients)
    for x, y, flux, _ in made:
        add(light, profiles[0], x, y, flux, half)
    if c.sky == "cloud":
        v, u = np.mgrid[0:SIDE, 0:SIDE] / SIDE
        light = light * (1 - 0.5 * c.strength * (0.5 + 0.5 * np.sin(2 * np.pi * (1.2 * u + 0.7 * v))))
    sky = _sky(c)
    variance = light + sky + READ_NOISE**2
    image = light + sky + rng.standard_normal(light.shape) * np.sqrt(variance)
    return (
        _exposure(image, variance, 1.0, 2, (0, 0)),
        _exposure(old + SKY, old_variance, 1 / UNIT, 1, (-PAD, -PAD)),
        made,
    )


def outcome(c: Conditions) -> Outcome:
    """Characterise a drawn pair, subtract it, and compare with the truth."""
    science, template, transients = _pair(c)
    rules = load_instrument("simcam")
    task = make_task(ImageDifferenceTask, rules.task_config.get("ImageDifferenceTask") or None)
    try:
        for e in (science, template):
            characterize(e, rules, None)
        result = task.run(science, science.sources, template)
    except AlertProdError as error:
        return Outcome(error.code, problems=str(error))
    table = result.diaSources
    apart = np.hypot(table.x.to_numpy()[:, None] - transients[:, 0], table.y.to_numpy()[:, None] - transients[:, 1])
    reach = max(5.0, 1.3 * c.science_fwhm)
    nearest = apart.argmin(0) if len(table) else np.zeros(TRANSIENTS, int)
    hit = apart.min(0) < reach / 2 if len(table) else np.zeros(TRANSIENTS, bool)
    flux = table.psfInstFlux.to_numpy()[nearest] / transients[:, 2] if len(table) else np.zeros(TRANSIENTS)
    bright = hit & (transients[:, 3] > 25)
    true = UNIT * (1 - 0.25 * c.strength if c.sky == "cloud" else 1.0)
    own = 1 - 0.25 * c.strength if c.sky == "cloud" else 1.0
    return Outcome(
        "",
        false=int((apart.min(1) > reach).sum()) if len(table) else 0,
        missed=float(1 - hit.mean()),
        bias=float(np.median(flux[bright]) / own - 1) if bright.sum() >= 3 else 0.0,
        kernel=float(result_unit(task) / true - 1),
        problems=str(task.metadata["qualityProblems"]) if "qualityProblems" in task.metadata else "",
    )


def result_unit(task: ImageDifferenceTask) -> float:
    """Return the counts of the image per count of the template that the subtraction found."""
    return float(task.metadata["templateUnit"])
