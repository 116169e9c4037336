"""The page of the solar system: which bodies were found, and how far from where they were expected."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading

__all__ = ["Residual", "residuals", "solar_pages"]

solar_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

MOST = 3000  # associations, the newest
ROWS = 200
HALF = 100.0  # units of the picture from its middle to its edge
_ASSOCIATIONS = (
    'SELECT s."diaSourceId" AS source, s."ssObjectId" AS body, s.designation, s."ephOffset" AS away, s."ephOffsetRa" AS east, '
    's."ephOffsetDec" AS north, s."ephOffsetAlongTrack" AS along, s."ephOffsetCrossTrack" AS across, s."ephVmag" AS expected, '
    's."diaDistanceRank" AS rank, d.visit, d.detector, d.ra, d.dec, d.band, d."midpointMjdTai" AS mjd, d.snr, d."scienceFlux" AS flux '
    'FROM "SSSource" s JOIN "DiaSource" d USING ("diaSourceId") WHERE d."timeWithdrawnMjdTai" IS NULL '
    'ORDER BY d."midpointMjdTai" DESC, s."diaSourceId" LIMIT %s'
)


@dataclass(frozen=True)
class Residual:
    """One association in units of the picture: east to the left, north up."""

    x: float
    y: float
    label: str
    link: str


@solar_pages.get("/solar")
def solar(request: Request, shared: Pages) -> Response:
    """Associations and their residuals."""
    with reading(shared.database) as cursor:
        rows = cursor.execute(_ASSOCIATIONS, (MOST,)).fetchall()
    dots, reach = residuals(rows)
    return page(
        request, "solar.html", rows=rows[:ROWS], counted=len(rows), most=MOST, dots=dots, reach=reach, half=HALF,
        bodies=_bodies(rows)[:ROWS], found=len({r["body"] for r in rows}), whole=_spread([r for r in rows if r["east"] is not None]),
    )  # fmt: skip


def residuals(rows: list[dict[str, Any]]) -> tuple[list[Residual], float]:
    """Return the picture of observed minus expected places, and how many arcsec its edge is from the middle."""
    use = [r for r in rows if r["east"] is not None and r["north"] is not None]
    if not use:
        return [], 1.0
    farthest = max(max(abs(r["east"]), abs(r["north"])) for r in use)
    reach = next((v for v in (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0) if v >= farthest), float(farthest) or 1.0)
    dots = [
        Residual(
            round(-HALF * r["east"] / reach, 1), round(-HALF * r["north"] / reach, 1),
            f"{r['designation'] or r['body']}: {r['east']:+.2f}, {r['north']:+.2f} arcsec", f"/visit/{r['visit']}/{r['detector']}",
        )
        for r in use
    ]  # fmt: skip
    return dots, reach


def _spread(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Return medians and robust scatter (arcsec) of residuals, None without any."""
    if not rows:
        return None
    east, north = (np.array([r[k] for r in rows], np.float64) for k in ("east", "north"))
    out = {"east": float(np.median(east)), "north": float(np.median(north))}
    for name, values in (("eastScatter", east), ("northScatter", north)):
        low, high = np.percentile(values, [25, 75])
        out[name] = float(0.7413 * (high - low))
    return out


def _bodies(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the bodies, those that were found most often first."""
    by_body: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_body.setdefault(row["body"], []).append(row)
    out = [
        {
            "body": body, "designation": own[0]["designation"], "n": len(own), "last": own[0]["mjd"], "first": own[-1]["mjd"],
            "away": float(np.median([r["away"] for r in own if r["away"] is not None] or [np.nan])),
        }
        for body, own in by_body.items()
    ]  # fmt: skip
    return sorted(out, key=lambda b: (-b["n"], b["body"]))
