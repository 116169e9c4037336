"""Small surveys with troubles drawn at random, fitted, and judged by the simulation's own maps.

Beside `tests.support.joint_conditions`, whose surveys only have rough headers: what inputs bring that no model follows.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from calibration.joint.data import ARCSEC
from calibration.joint.joint import JointFit
from simulation.focal_plane import MosaicSettings, MosaicSurvey, simulate_mosaic
from tasks.errors import AlertProdError
from tasks.sphere import unit_vectors
from tests.support.joint_conditions import Key, published, sky_error_mas, zero_point_error
from tests.support.mosaics import config, summaries

__all__ = ["Case", "Told", "draw", "judge"]

TWINS = "hold its stars more than once"  # what a catalogue is refused for


@dataclass
class Case:
    """A survey, what was done to it, and what its truth is after that.

    Parameters
    ----------
    tables, filters
        Source tables; by visit the physical filter that its summary tells, where it is another.
    done
        The survey and its troubles, in words.
    pixels
        By (visit, detector): where the simulation has a pixel (x, y) of the tables, when these were changed.
    dimmer
        By visit: functions of a pixel (x, y) that tell by how much (mag) its sources were made fainter.
    """

    survey: MosaicSurvey
    rng: np.random.Generator
    tables: list[pd.DataFrame] = field(default_factory=list)
    filters: dict[int, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    pixels: dict[Key, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    dimmer: dict[int, list[Callable[[np.ndarray, np.ndarray], np.ndarray]]] = field(default_factory=dict)

    @property
    def visits(self) -> list[int]:
        return sorted({v for v, _ in self.survey.headers})

    def one_visit(self) -> int:
        return int(self.rng.choice(self.visits))

    def table(self, visit: int) -> pd.DataFrame:
        return next(t for t in self.tables if int(t.visit.iloc[0]) == visit)

    def some(self, table: pd.DataFrame, share: float) -> np.ndarray:
        return self.rng.uniform(size=len(table)) < share


def spherical_offset(case: Case) -> None:
    """Turn the headers of some visits about an axis of the sphere, as a telescope points: RA, Dec and north change together."""
    arcsec = float(case.rng.choice([0.3, 5.0, 15.0, 60.0, 1800.0]))
    number = int(case.rng.integers(1, len(case.visits) + 1))
    for visit in case.visits[:number]:
        axis = case.rng.normal(size=3)
        for (v, _), header in case.survey.headers.items():
            if v != visit:
                continue
            old = unit_vectors(header["CRVAL1"], header["CRVAL2"])
            along = np.cross(np.cross(old, axis), old)
            new, turn = moved(old, along / np.linalg.norm(along), arcsec * ARCSEC)
            header["CRVAL1"] = float(np.degrees(np.arctan2(new[1], new[0])) % 360.0)
            header["CRVAL2"] = float(np.degrees(np.arctan2(new[2], np.hypot(new[0], new[1]))))
            c, s = np.cos(turn), np.sin(turn)
            linear(header, np.array([[c, -s], [s, c]]))
    case.done.append(f"{number} visits {arcsec} arcsec off")


def moved(old: np.ndarray, along: np.ndarray, angle: float) -> tuple[np.ndarray, float]:
    """Return a direction moved along a great circle, and by how much the frame that moved with it is turned against north."""
    new = old * np.cos(angle) + along * np.sin(angle)
    ahead = along * np.cos(angle) - old * np.sin(angle)
    bearings = []
    for place, way in ((old, along), (new, ahead)):
        east = np.array([-place[1], place[0], 0.0]) / np.hypot(place[0], place[1])
        bearings.append(np.arctan2(way @ np.cross(place, east), way @ east))
    return new, float(bearings[1] - bearings[0])


def linear(header, matrix: np.ndarray) -> None:
    new = matrix @ np.array([[header[f"PC{i}_{j}"] for j in (1, 2)] for i in (1, 2)])
    for i in (0, 1):
        for j in (0, 1):
            header[f"PC{i + 1}_{j + 1}"] = new[i, j]


def flipped_header(case: Case) -> None:
    """The headers of one detector say that its x axis runs the other way."""
    detector = int(case.rng.integers(0, case.survey.optics.chip_turn.size))
    for (_, d), header in case.survey.headers.items():
        if d == detector:
            linear(header, np.diag([-1.0, 1.0]))
    case.done.append(f"detector {detector} mirrored in its headers")


def flipped_pixels(case: Case) -> None:
    """One detector was read the other way in one visit: neither camera nor header say so."""
    visit, detector = case.one_visit(), int(case.rng.integers(0, case.survey.optics.chip_turn.size))
    table = case.table(visit)
    of = (table.detector == detector).to_numpy()
    table.loc[of, "x"] = 2047.0 - table.x[of]
    case.pixels[visit, detector] = lambda x, y: (2047.0 - x, y)
    case.done.append(f"visit {visit} detector {detector} read the other way")


def moved_chip(case: Case) -> None:
    pixels, detector = float(case.rng.choice([0.3, 1.0, 5.0, 20.0])), 0
    visits = case.visits[len(case.visits) // 2 :]
    for visit in visits:
        table = case.table(visit)
        table.loc[table.detector == detector, "x"] += pixels
        before = case.pixels.get((visit, detector), lambda x, y: (x, y))
        case.pixels[visit, detector] = lambda x, y, before=before: before(x - pixels, y)
    case.done.append(f"detector {detector} moved by {pixels} px from visit {visits[0]} on")


def cloud(case: Case) -> None:
    visit, deep = case.one_visit(), float(case.rng.choice([0.3, 1.0, 2.0]))
    table = case.table(visit)
    width = float(case.rng.choice([20.0, 1000.0]))

    def dimmer(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return deep * 0.5 * (1 + np.tanh((y - 2000.0) / width))

    table["apFlux_12_0_instFlux"] *= 10 ** (-0.4 * dimmer(table.x.to_numpy(), table.y.to_numpy()))
    case.dimmer.setdefault(visit, []).append(dimmer)
    case.done.append(f"cloud of {deep} mag over visit {visit}")


def few_references(case: Case) -> None:
    references = case.survey.references
    kind = case.rng.choice(["half the field", "few", "one in ten"])
    if kind == "half the field":
        off = np.degrees(references.coord_dec) > case.survey.truth.dec.median()
        references = references[off]
    elif kind == "few":
        references = references.nlargest(int(case.rng.choice([0, 3, 8, 20])), "z_flux")
    else:
        references = references[case.some(references, 0.1)]
    case.survey.references = references.reset_index(drop=True)
    case.done.append(f"{len(references)} reference stars: {kind}")


def wrong_epoch(case: Case) -> None:
    years = float(case.rng.choice([-15.0, 2.0, 15.0, 1000.0]))
    case.survey.references["epoch"] += 365.25 * years
    case.done.append(f"epoch of the reference stars off by {years} years")


def other_filter(case: Case) -> None:
    """A visit through another filter: its fluxes follow the stars' colours; its summary may say so."""
    visit = case.one_visit()
    k = [int(t.visit.iloc[0]) for t in case.survey.sources].index(visit)
    colour = case.survey.truth.colour.to_numpy()[case.survey.star[k]]
    case.table(visit)["apFlux_12_0_instFlux"] *= 10 ** (-0.4 * colour)
    mean = float(case.survey.truth.colour.mean())
    case.dimmer.setdefault(visit, []).append(lambda x, y: mean)
    if case.rng.uniform() < 0.5:
        case.filters[visit] = "HSC-G"
    case.done.append(f"visit {visit} through another filter, {'said' if visit in case.filters else 'not said'}")


def duplicates(case: Case) -> None:
    if case.rng.uniform() < 0.5:
        copies = case.survey.references.copy()
        copies["coord_dec"] += float(case.rng.choice([0.0, 0.01, 0.3])) * ARCSEC
        case.survey.references = pd.concat([case.survey.references, copies], ignore_index=True)
        case.done.append("each reference star twice")
    else:
        case.tables.append(case.table(case.one_visit()).copy())
        case.done.append("a source table twice")


def broken_rows(case: Case) -> None:
    value = float(case.rng.choice([np.nan, np.inf, 0.0, -1.0]))
    for table in case.tables:
        for column in ("x", "xErr", "apFlux_12_0_instFlux", "apFlux_12_0_instFluxErr"):
            table.loc[case.some(table, 0.03), column] = value
    references = case.survey.references
    for column in ("coord_ra", "coord_decErr", "pm_ra", "epoch", "z_flux", "z_fluxErr"):
        references.loc[case.some(references, 0.03), column] = value
    case.done.append(f"{value} in rows of all tables")


def zero_errors(case: Case) -> None:
    columns = [["xErr", "yErr"], ["apFlux_12_0_instFluxErr"], ["coord_raErr", "coord_decErr"]]
    chosen = columns[int(case.rng.integers(0, 3))]
    for table in [*case.tables, case.survey.references]:
        table[[c for c in chosen if c in table]] = 0.0
    case.done.append(f"no error in {chosen}")


def other_field(case: Case) -> None:
    """A visit whose sources are those of other stars: a degree away by its headers, or said to be here."""
    visit, here = case.one_visit(), case.rng.uniform() < 0.5
    table = case.table(visit)
    table["x"], table["y"] = case.rng.uniform(10, 2030, len(table)), case.rng.uniform(10, 4160, len(table))
    if not here:
        for (v, _), header in case.survey.headers.items():
            if v == visit:
                header["CRVAL2"] -= np.sign(header["CRVAL2"]) * 1.0
    for detector in range(case.survey.optics.chip_turn.size):
        case.pixels[visit, detector] = lambda x, y: (np.full_like(x, np.nan), y)  # no WCS of it is right
    case.done.append(f"visit {visit} shows another field, {'said to be here' if here else 'and says so'}")


TROUBLES = (
    spherical_offset, flipped_header, flipped_pixels, moved_chip, cloud, few_references, wrong_epoch, other_filter, duplicates,
    broken_rows, zero_errors, other_field,
)  # fmt: skip


def draw(number: int) -> Case:
    """Return the case of a number: a survey with one to three troubles; equal numbers give equal bytes."""
    rng = np.random.default_rng([32, number])
    settings = MosaicSettings(
        seed=5000 + number,
        n_visits=int(rng.integers(2, 5)),
        n_chips=int(rng.integers(1, 7)),
        stars_per_chip=float(rng.choice([30.0, 60.0, 120.0])),
        outliers=float(rng.choice([0.0, 0.02, 0.05])),
        centre=(
            float(rng.choice([0.0, 359.999, rng.uniform(0, 360)])),
            float(rng.choice([-89.95, -60.0, 0.0, 30.0, 89.5, 90.0])),
        ),
        pointing_arcsec=float(rng.choice([0.03, 0.3])),
        motion_mas=float(rng.choice([0.0, 10.0])),
    )
    survey = simulate_mosaic(settings)
    case = Case(survey, rng, [t.copy() for t in survey.sources])
    troubles = rng.choice(len(TROUBLES), int(rng.integers(1, 4)), replace=False)
    for index in sorted(troubles):
        TROUBLES[index](case)
    said = f"{settings.n_visits} visits x {settings.n_chips} chips x {settings.stars_per_chip:.0f} stars at {settings.centre[0]:.3f} "
    case.done.insert(0, f"{said}{settings.centre[1]:+.2f}, motions {settings.motion_mas:.0f} mas/yr")
    return case


@dataclass
class Told:
    """What came out: the error it was refused with, whether it converged, what it warned of, and wrong images of which it
    said nothing: by (visit, detector), in formal errors of its WCS and (`fluxes`) of its calibration.
    """

    refused: str = ""
    converged: bool = False
    warnings: list[str] = field(default_factory=list)
    ratios: dict[Key, float] = field(default_factory=dict)
    fluxes: dict[Key, float] = field(default_factory=dict)
    weak: int = 0

    def silent(self) -> dict[Key, float]:
        """Return the images that are beyond five formal errors (or NaN) of which nothing was said."""
        if self.refused or not self.converged:
            return {}
        both = [*self.ratios.items(), *self.fluxes.items()]
        return {key: ratio for key, ratio in both if not ratio <= 5.0}


def judge(case: Case) -> Told:
    """Fit a case and compare each published WCS and calibration that is not marked as weak with the truth."""
    s = case.survey
    told, records = Told(), _Records()
    given = summaries(s)
    for summary in given:
        for row in summary.table:
            row["physical_filter"] = case.filters.get(int(row["visit"]), "HSC-Z")
    logger = logging.getLogger("alertprod.jointcal")
    logger.addHandler(records)
    try:
        result = JointFit(config(), s.references, s.references).run(case.tables, given, s.camera)
    except AlertProdError as error:
        told.refused = f"{type(error).__name__}: {error}"
        return told
    finally:
        logger.removeHandler(records)
    told.converged, told.warnings = result.converged, records.said
    images, told.weak = published(result)
    for key, wcs, row in images:
        error = sky_error_mas(s, key, wcs, case.pixels.get(key, lambda x, y: (x, y)))
        told.ratios[key] = error / (1e3 * row.astrometry_formal_error)
    table = result.image_quality.set_index(["visit", "detector"])
    for key, calib in result.outputPhotoCalib.items():
        if table.loc[key].photometry_weak:
            continue
        dimmers = case.dimmer.get(key[0], [])
        error = zero_point_error(
            s, key, calib, case.pixels.get(key, lambda x, y: (x, y)), lambda x, y, of=dimmers: sum(d(x, y) for d in of)
        )
        told.fluxes[key] = error / table.loc[key].photometry_formal_error
    return told


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
