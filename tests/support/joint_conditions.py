"""Small surveys under conditions drawn at random, fitted, and judged by the simulation's own maps."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibration.joint.data import ARCSEC
from calibration.joint.joint import JointFit
from simulation.focal_plane import MosaicSettings, MosaicSurvey, simulate_mosaic
from tasks.errors import AlertProdError
from tasks.sphere import unit_vectors
from tests.support.mosaics import config, summaries, true_pixels_to_sky

__all__ = ["Condition", "Verdict", "draw", "judge", "published", "sky_error_mas", "with_headers", "zero_point_error"]

X, Y = (a.ravel() for a in np.meshgrid(np.linspace(50, 2000, 5), np.linspace(50, 4100, 5)))

Key = tuple[int, int]


@dataclass(frozen=True)
class Condition:
    """What is simulated, and how wrong the headers of the last visits are."""

    settings: MosaicSettings
    wrong_visits: int
    shift_arcsec: float
    turn_deg: float
    scale: float

    def __str__(self) -> str:
        s = self.settings
        return (
            f"seed {s.seed}: {s.n_visits} visits x {s.n_chips} chips x {s.stars_per_chip:.0f} stars, {100 * s.outliers:.0f} % outliers, "
            f"references to {s.reference_mag:.1f}, dec {s.centre[1]:+.0f}; {self.wrong_visits} visits off by {self.shift_arcsec:.2f} "
            f"arcsec, {self.turn_deg:.2f} deg, {100 * self.scale:.2f} %"
        )


def draw(number: int) -> Condition:
    """Return the condition of a number; equal numbers give equal bytes."""
    rng = np.random.default_rng([31, number])
    dec = float(rng.choice([-90.0, -60.0, 0.0, 2.2, 60.0, 89.8]))
    settings = MosaicSettings(
        seed=1000 + number,
        n_visits=int(rng.integers(2, 5)),
        n_chips=int(rng.integers(1, 6)),
        stars_per_chip=float(rng.choice([8.0, 20.0, 50.0, 110.0])),
        outliers=float(rng.choice([0.0, 0.01, 0.05])),
        centre=(float(rng.uniform(0, 360)), dec),
        pointing_arcsec=float(rng.choice([0.0, 0.3])),
        reference_mag=float(rng.choice([20.0, 21.0, 21.5])),
    )
    wrong = int(rng.integers(0, settings.n_visits + 1))
    shift, turn, scale = (
        float(rng.choice(of)) for of in ([0.03, 0.3, 2.0, 10.0], [0.0, 0.0, 0.05, 1.0], [0.0, 0.0, 1e-3, 1e-2])
    )
    return Condition(settings, wrong, shift, turn, scale)


def with_headers(s: MosaicSurvey, condition: Condition) -> MosaicSurvey:
    """Return the survey with the wrong headers of a condition."""
    made = copy.copy(s)
    made.headers = {key: header.copy() for key, header in s.headers.items()}
    visits = sorted({v for v, _ in made.headers})
    c, t = np.cos(np.radians(condition.turn_deg)), np.sin(np.radians(condition.turn_deg))
    linear = (1.0 + condition.scale) * np.array([[c, -t], [t, c]])
    for (v, _), header in made.headers.items():
        if v in visits[len(visits) - condition.wrong_visits :]:
            new = linear @ np.array([[header[f"PC{i}_{j}"] for j in (1, 2)] for i in (1, 2)])
            for i in (0, 1):
                for j in (0, 1):
                    header[f"PC{i + 1}_{j + 1}"] = new[i, j]
            header["CRVAL2"] -= condition.shift_arcsec / 3600 * np.sign(header["CRVAL2"] + 0.01)
    return made


def sky_error_mas(s: MosaicSurvey, key: Key, wcs, pixels=lambda x, y: (x, y)) -> float:
    """Return what the WCS of an image is off by: rms per axis over the image.

    `pixels` tells where the simulation has a pixel (x, y) of the tables, when these were changed.
    """
    off = unit_vectors(*wcs.pixel_to_sky(X, Y)) - unit_vectors(*true_pixels_to_sky(s, *key, *pixels(X, Y)))
    return 1e3 * float(np.sqrt((off**2).sum(1).mean() / 2)) / ARCSEC


def zero_point_error(s: MosaicSurvey, key: Key, calib, pixels=lambda x, y: (x, y), dimmer=lambda x, y: 0.0) -> float:
    """Return what the calibration of an image is off by: rms over the image, mag.

    `pixels` as in `sky_error_mas`; `dimmer` tells by how much (mag) sources at a pixel (x, y) were made fainter.
    """
    index = [int(t.visit.iloc[0]) for t in s.sources].index(key[0])
    focal = s.camera[key[1]].to_focal(*pixels(X, Y))
    true = s.optics.scale_mag(s.extra["visits"][index], key[1], *focal) - dimmer(X, Y)
    return float(np.sqrt(np.mean((31.4 - 2.5 * np.log10(calib.at(X, Y)) - true) ** 2)))


def published(result) -> tuple[list[tuple[Key, Any, Any]], int]:
    """Return (visit, detector), WCS and quality of the images that are not marked as weak, and how many are."""
    table = result.image_quality.set_index(["visit", "detector"])
    images = [(key, wcs, table.loc[key]) for key, wcs in result.outputWcs.items()]
    firm = [image for image in images if not image[2].astrometry_weak]
    return firm, len(images) - len(firm)


@dataclass
class Verdict:
    """How a fit came out: `said` names what it told of itself; ratios of errors to formal errors, image by image, of
    WCS and (`fluxes`) of calibrations.
    """

    said: str = ""
    ratios: dict[tuple[int, int], float] = field(default_factory=dict)
    errors: dict[tuple[int, int], float] = field(default_factory=dict)
    fluxes: dict[tuple[int, int], float] = field(default_factory=dict)
    marked: int = 0

    def wrong(self) -> dict[tuple[int, int], float]:
        """Return the images that are beyond five formal errors and of which nothing was said."""
        both = [*self.ratios.items(), *self.fluxes.items()]
        return {} if self.said else {key: ratio for key, ratio in both if not ratio <= 5.0}


def judge(condition: Condition) -> Verdict:
    """Simulate, fit and compare with the truth."""
    s = with_headers(simulate_mosaic(condition.settings), condition)
    try:
        result = JointFit(config(), s.references, s.references).run(s.sources, summaries(s), s.camera)
    except AlertProdError as error:
        return Verdict(said=f"refused: {error}")
    out = Verdict(said="" if result.converged else "not converged")
    images, out.marked = published(result)
    for key, wcs, row in images:
        out.errors[key] = sky_error_mas(s, key, wcs)
        out.ratios[key] = out.errors[key] / (1e3 * row.astrometry_formal_error)
    table = result.image_quality.set_index(["visit", "detector"])
    for key, calib in result.outputPhotoCalib.items():
        if not table.loc[key].photometry_weak:
            out.fluxes[key] = zero_point_error(s, key, calib) / table.loc[key].photometry_formal_error
    return out
