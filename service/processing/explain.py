"""Why there is, or is no, alert at a position: the processing of a visit looked at there, step by step.

What is stored is asked first. Where nothing is stored, the subtraction is made again (nothing is written) without throwing
any measurement away, and each test that could have thrown it away is named.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from astropy.time import Time
from psycopg.rows import dict_row

from alerts.archive.container import INDEX
from apdb import Database, Ledger, VisitState, VisitUnitOfWork
from apdb.queue.states import FINAL_STATES
from association import DiaPipelineTask, standardize
from association.new_objects import new_source_tests
from association.standardize import filter_tests
from diffim import ImageDifferenceTask, TemplateStore
from exposure import Exposure, Instrument
from exposure.mask import PLANES
from exposure.task_config import task_overrides
from forced.calibrated import measure_pair
from service.processing.covering import PlaceOnImage, places_on, where_it_lies
from service.processing.images import Clock, calibrated_pair, open_science
from service.processing.instruments import checked_instrument
from service.settings import Settings
from tasks import AlertProdError, make_task
from tasks.sphere import separation_arcsec

__all__ = ["MadeAgain", "Step", "explain"]

MOST_DETECTORS = 200  # of a visit, that are asked whether they hold a place


@dataclass(frozen=True)
class Step:
    """One step: its name, whether the place passed it (None: a fact, no test), what was found."""

    name: str
    passed: bool | None
    text: str
    values: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class MadeAgain:
    """A pair that was subtracted again, its difference and the significance of that."""

    science: Exposure
    template: Exposure
    difference: Exposure
    score: Exposure | None


def explain(
    settings: Settings,
    visit: int,
    detector: int,
    ra: float,
    dec: float,
    radius_arcsec: float = 2.0,
    *,
    rerun: bool = True,
    keep: Callable[[MadeAgain], None] = lambda result: None,
) -> list[Step]:
    """Follow a place through a visit; the last step that was not passed is the reason.

    Parameters
    ----------
    ra, dec
        ICRS degrees.
    radius_arcsec
        How far a source may be from the place.
    rerun
        Make the subtraction again where nothing is stored.
    keep
        Given what is made again, for who shows it.

    Raises
    ------
    DatabaseUnavailable
        Try again later.
    """
    database = Database(settings.database())
    row = Ledger(database).get(visit, detector)
    if row is None:
        return [Step("visit", False, "never came: post it", {})]
    values = {k: row[k] for k in ("state", "attempt", "errorCode", "errorText", "midpointMjdTai", "band")}
    steps = [Step("visit", row["state"] == VisitState.DONE, _visit_text(row), values)]
    with database.connect() as connection:
        stored = _stored_sources(connection, visit, detector, ra, dec, radius_arcsec)
        if stored:
            return [*steps, *_delivery(connection, visit, detector, stored)]
        text = f"no DiaSource of visit {visit}, detector {detector} within {radius_arcsec:g} arcsec"
        steps.append(Step("stored", False, text, {}))
        if not rerun or row["state"] not in FINAL_STATES:
            return steps
        return [*steps, *_rerun(settings, connection, row, (ra, dec, radius_arcsec), keep)]


def _visit_text(row: dict[str, Any]) -> str:
    if row["errorCode"] and row["state"] != VisitState.DONE:
        return f"{row['state']}: {row['errorCode']}: {row['errorText']}"
    return str(row["state"])


def _stored_sources(
    connection: psycopg.Connection[Any], visit: int, detector: int, ra: float, dec: float, radius: float
) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            'SELECT "diaSourceId", "diaObjectId", "ssObjectId", ra, dec, "psfFlux", "psfFluxErr", snr, reliability FROM '
            '"DiaSource" WHERE visit = %s AND detector = %s AND "timeWithdrawnMjdTai" IS NULL',
            (visit, detector),
        ).fetchall()
    if not rows:
        return []
    away = separation_arcsec([r["ra"] for r in rows], [r["dec"] for r in rows], ra, dec)
    near = [{**row, "separation": round(float(d), 3)} for row, d in zip(rows, away, strict=True) if d <= radius]
    return sorted(near, key=lambda r: r["separation"])


def _delivery(
    connection: psycopg.Connection[Any], visit: int, detector: int, stored: list[dict[str, Any]]
) -> list[Step]:
    """Say to which object the stored sources belong and what became of the visit's alerts."""
    steps = []
    for source in stored:
        owner = f"object {source['diaObjectId']}" if source["diaObjectId"] else f"body {source['ssObjectId']}"
        fresh = " (founded by it)" if source["diaObjectId"] == source["diaSourceId"] else ""
        text = f"DiaSource {source['diaSourceId']} at {source['separation']:g} arcsec, of {owner}{fresh}"
        steps.append(Step("stored", True, text, source))
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            'SELECT attempt, file, "heldReason", "droppedAt", "publishedAt", "publishOrder", count, "alertIndex" FROM "AlertOutbox" WHERE visit = %s '
            "AND detector = %s ORDER BY attempt DESC LIMIT 1",
            (visit, detector),
        ).fetchone()
    if row is None:
        return [*steps, Step("alert", False, "the visit has no alert file", {})]
    index, count = row.pop("alertIndex"), row.pop("count")
    if index or not count:  # None where another writer made the file
        issued = np.frombuffer(index or b"", INDEX)["diaSourceId"]
        if not np.isin([s["diaSourceId"] for s in stored], issued).any():
            text = "unconfirmed: stored, and waits for another detection of its object (alertLeastDiaSources)"
            return [*steps, Step("alert", False, text, {})]
    if row["droppedAt"]:
        text = f"dropped by an operator at {row['droppedAt']:%Y-%m-%d %H:%M:%S}"
    elif row["heldReason"]:
        text = f"held: {row['heldReason']}"
    elif row["publishedAt"]:
        text = f"published at {row['publishedAt']:%Y-%m-%d %H:%M:%S}"
    else:
        text = "waits for the relay"
    return [*steps, Step("alert", row["publishedAt"] is not None, text, {k: str(v) for k, v in row.items()})]


def _rerun(
    settings: Settings,
    connection: psycopg.Connection[Any],
    row: dict[str, Any],
    circle: tuple[float, float, float],
    keep: Callable[[MadeAgain], None],
) -> list[Step]:
    """Subtract again, keep every measurement, and test the place: ra, dec (degrees), radius (arcsec)."""
    ra, dec, radius = circle
    message = row["message"]
    rules, roots = checked_instrument(message["instrument"]), [*settings.data_roots, settings.upload_dir]
    try:
        science = open_science(message, rules, roots)
        if not bool(science.contains(*science.require_wcs().sky_to_pixel(np.array([ra]), np.array([dec])))[0]):
            others = connection.execute(
                'SELECT visit, detector, message FROM "VisitLedger" WHERE visit = %s ORDER BY detector LIMIT %s',
                (row["visit"], MOST_DETECTORS),
            ).fetchall()
            rows = [dict(zip(("visit", "detector", "message"), other, strict=True)) for other in others]
            return [_outside(row["visit"], row["detector"], places_on(settings, rows, ra, dec)[0])]
        name = message.get("templates") or settings.template_set
        template, _ = calibrated_pair(science, rules, TemplateStore(settings.template_dir), name, Clock())
        task = make_task(ImageDifferenceTask, task_overrides(ImageDifferenceTask, rules, science))
        open_config = {"badSourceFlags": [], "minReliability": 0.0, "doWriteScore": True}
        everything = make_task(
            ImageDifferenceTask, {**task_overrides(ImageDifferenceTask, rules, science), **open_config}
        )
        result = everything.run(science, science.sources, template)
        keep(MadeAgain(science, template.cutout(*science.bbox), result.subtractedExposure, result.scoreExposure))
    except AlertProdError as error:
        return [Step("subtraction", False, f"{error.code}: {error}", {})]
    x, y = (float(v[0]) for v in science.require_wcs().sky_to_pixel(np.array([ra]), np.array([dec])))
    difference = result.subtractedExposure
    raw = result.diaSources
    table = standardize(raw, difference, float(Time.now().tai.mjd))
    away = separation_arcsec(table.ra, table.dec, ra, dec) if len(table) else np.zeros(0)
    nearest = int(np.argmin(away)) if away.size else -1
    distance = float(away[nearest]) if nearest >= 0 else None
    threshold = float(task.config.detectionThreshold)
    steps = [_mask(difference, x, y), _signal(result, science, x, y, radius, threshold, distance)]
    if distance is None or distance > radius:
        return [*steps, _undetected(radius, distance)]
    steps.append(_detected(table.iloc[nearest], float(away[nearest])))
    one_raw, one = raw.iloc[[nearest]].reset_index(drop=True), table.iloc[[nearest]].reset_index(drop=True)
    steps += [_kept(one_raw, task), _filtered(one_raw, one, difference)]
    return [*steps, *_associated(connection, rules, one)]


def _outside(visit: int, detector: int, images: list[PlaceOnImage]) -> Step:
    """Say that the place is off an image, by how much, and which other detector of the visit holds it."""
    own = next((i for i in images if i.detector == detector), None)
    values = {} if own is None else {k: v for k, v in own.as_dict().items() if k in ("x", "y", "width", "height")}
    text = f"the place is off the image of visit {visit}, detector {detector}"
    if own is not None and not own.holds:
        text += f" ({own.width} x {own.height} px): {own.words}"
    holders = [i.detector for i in images if i.holds and i.detector != detector]
    if holders:
        text += f"; detector {holders[0]} of this visit holds it"
    elif len(images) > 1:
        text += f"; {where_it_lies(visit, images)}"
    return Step("image", False, text, values | ({"holder": holders[0]} if holders else {}))


def _mask(difference: Exposure, x: float, y: float) -> Step:
    column, row = int(np.floor(x + 0.5)) - difference.origin[0], int(np.floor(y + 0.5)) - difference.origin[1]
    value = int(difference.mask[row, column])
    planes = [name for name, bit in PLANES.items() if value >> bit & 1]
    usable = not {"NO_DATA", "BAD", "SAT", "EDGE"} & set(planes) and bool(np.isfinite(difference.image[row, column]))
    text = f"pixel ({x:.1f}, {y:.1f}): {', '.join(planes) or 'no plane'} set"
    return Step("mask", usable, text, {"x": round(x, 2), "y": round(y, 2), "planes": planes})


def _signal(
    result: Any, science: Exposure, x: float, y: float, radius: float, threshold: float, nearest: float | None
) -> Step:
    """Compare the highest peak of the significance within the radius with the threshold, and give the fluxes at the place.

    What is significant without a peak inside is the flank of something outside: that is said, with the distance of the
    nearest source (arcsec, None without one).
    """
    difference = result.subtractedExposure
    peak, highest = _peak_within(result.scoreExposure, x, y, radius)
    flux = measure_pair(difference, science, np.array([x]), np.array([y])).iloc[0]
    values = {"peakSignificance": round(peak, 2), "highestSignificance": round(highest, 2), "threshold": threshold}
    values |= {k: float(flux[k]) for k in ("psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr")}
    if peak < threshold <= highest:
        whose = f", as that of the source {nearest:.1f} arcsec away" if nearest is not None and nearest > radius else ""
        said = f"no peak within {radius:g} arcsec: the significance of {highest:.1f} there is the flank of a peak outside{whose}"
    else:
        said = f"highest significance within {radius:g} arcsec {highest:.1f}"
    text = (
        f"{said} (threshold {threshold:g}); flux on the difference {flux.psfFlux:.0f} +- {flux.psfFluxErr:.0f} nJy, "
        f"on the image {flux.scienceFlux:.0f} +- {flux.scienceFluxErr:.0f}"
    )
    return Step("signal", peak >= threshold, text, values)


def _peak_within(score: Exposure, x: float, y: float, radius: float) -> tuple[float, float]:
    """Return the highest local maximum of the absolute significance within a radius (arcsec), and its highest value there."""
    from scipy.ndimage import maximum_filter

    reach = max(1.0, radius / float(score.require_wcs().pixel_scale_arcsec(x, y)))
    column, row, side = round(x) - score.origin[0], round(y) - score.origin[1], int(np.ceil(reach)) + 1
    top, left = max(row - side, 0), max(column - side, 0)
    part = np.nan_to_num(np.abs(score.image[top : row + side + 1, left : column + side + 1]))
    rows, columns = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]]
    inside = np.hypot(columns + score.origin[0] - x, rows + score.origin[1] - y) <= reach
    peaks = inside & (part == maximum_filter(part, size=3, mode="nearest"))
    return float(part[peaks].max(initial=0.0)), float(part[inside].max(initial=0.0))


def _undetected(radius: float, nearest: float | None) -> Step:
    far = "" if nearest is None else f"; the nearest source is {nearest:.1f} arcsec away"
    wider = "" if nearest is None or nearest > 5 * radius else ": a larger radius would answer for it"
    return Step("detected", False, f"nothing is detected within {radius:g} arcsec{far}{wider}", {})


def _detected(source: "pd.Series[Any]", away: float) -> Step:
    values = {
        "separation": round(away, 3),
        "psfFlux": float(source.psfFlux),
        "psfFluxErr": float(source.psfFluxErr),
        "reliability": float(source.reliability),
    }
    return Step(
        "detected",
        True,
        f"a source {away:.2f} arcsec away, {source.psfFlux:.0f} +- {source.psfFluxErr:.0f} nJy",
        values,
    )


def _failed(tests: dict[str, Any]) -> list[str]:
    return [name for name, fails in tests.items() if bool(fails[0])]


def _kept(raw: pd.DataFrame, task: Any) -> Step:
    """Test what the subtraction itself throws away: flags, and reliability."""
    failed = [f for f in task.config.badSourceFlags if bool(raw[f].iloc[0])]
    score = float(raw["reliability"].iloc[0]) if "reliability" in raw else float("nan")
    if task.config.doReliability and not score >= task.config.minReliability:
        failed.append(f"reliability {score:.3f} < {task.config.minReliability:g}")
    return Step("measurement", not failed, ", ".join(failed) or "kept", {"failed": failed, "reliability": score})


def _filtered(raw: pd.DataFrame, table: pd.DataFrame, difference: Exposure) -> Step:
    failed = _failed(filter_tests(raw, table, difference.pixel_scale_arcsec()))
    return Step("filter", not failed, ", ".join(failed) or "kept", {"failed": failed})


def _associated(connection: psycopg.Connection[Any], rules: Instrument, source: pd.DataFrame) -> list[Step]:
    """Say to which object the source would belong, or why it would found none."""
    task = make_task(DiaPipelineTask, task_overrides(DiaPipelineTask, rules))
    limit = float(task.config.maxDistArcSeconds)
    with VisitUnitOfWork(connection) as work:  # read only: left without a commit
        position = source.ra.to_numpy(np.float64), source.dec.to_numpy(np.float64)
        objects = work.load_objects_around(*position, limit / 3600)
    away = (
        separation_arcsec(objects.ra, objects.dec, float(source.ra[0]), float(source.dec[0]))
        if len(objects)
        else np.zeros(0)
    )
    if away.size and away.min() <= limit:
        owner, distance = int(objects.diaObjectId.iloc[int(np.argmin(away))]), float(away.min())
        text = f"object {owner} is {distance:.2f} arcsec away: the source would belong to it today"
        return [Step("association", True, text, {"diaObjectId": owner, "separation": distance})]
    failed = _failed(new_source_tests(source, task.new_source_rules)) if task.config.filterUnAssociatedSources else []
    text = f"marginal, founds no object: {', '.join(failed)}" if failed else "it would found an object today"
    return [Step("association", not failed, text, {"failed": failed})]
