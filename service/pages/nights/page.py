"""The page of a night, and what it is drawn from."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from apdb.errors import NotFound
from apdb.queue.states import VisitState
from apdb.queue.status import delivery_figures
from service.pages.kept import kept
from service.pages.nights.facts import (
    BUDGET_S,
    STEPS,
    Night,
    in_order,
    night_of,
    nights,
    open_nights,
    with_metrics,
)
from service.pages.nights.mosaic import metric_names, mosaic
from service.pages.render import PageRoute, page, part
from service.pages.shared import Pages

__all__ = ["night_pages"]

night_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

BARS = 40  # ccdVisits in the waterfall
ROWS = 200  # of tables of what went wrong
NEWEST = 60  # ccdVisits in the table of all
CHOICES = (
    50  # visits in the list of the focal plane: of more the number is written, for the browser makes a long list slowly
)


@dataclass(frozen=True)
class Bar:
    """One ccdVisit of the waterfall: (step, begin, seconds) of its steps."""

    visit: int
    detector: int
    parts: list[tuple[str, float, float]]
    total: float


@night_pages.get("/")
def newest(
    request: Request,
    shared: Pages,
    colour: Annotated[str, Query(max_length=60)] = "state",
    visit: Annotated[int | None, Query(ge=0, lt=1 << 53)] = None,
) -> Response:
    """The newest night."""
    return _page(request, shared, None, colour, visit)


@night_pages.get("/night/{night}")
def one_night(
    night: int,
    request: Request,
    shared: Pages,
    colour: Annotated[str, Query(max_length=60)] = "state",
    visit: Annotated[int | None, Query(ge=0, lt=1 << 53)] = None,
) -> Response:
    """One night by its number."""
    return _page(request, shared, night, colour, visit)


def _page(request: Request, shared: Pages, number: int | None, colour: str, visit: int | None) -> Response:
    seen, values = kept(request)  # before anything is read, which is then as new or newer
    every = nights(shared.database)
    if number is not None and number not in every:
        raise NotFound(f"no visit of night {number} ever came")
    chosen = number if number is not None else next(iter(every), None)
    index = every.index(chosen) if chosen is not None else 0
    newest = index == 0
    return page(
        request, "night.html", seen=seen, number=chosen, later=every[index - 1] if index else None,
        earlier=every[index + 1] if index + 1 < len(every) else None,
        body=lambda: values(("night", chosen, newest, colour, visit), lambda: _made(request, shared, chosen, newest, colour, visit))["body"],
    )  # fmt: skip


def _made(
    request: Request, shared: Pages, chosen: int | None, newest: bool, colour: str, visit: int | None
) -> dict[str, Any]:
    night = night_of(shared.database, chosen, newest=newest)
    with shared.database.session() as connection:
        status = delivery_figures(connection)
    steps = night.steps()
    body = part(
        request,
        "night-body.html",
        night=night,
        status=status,
        steps=steps,
        slowest=max(steps, key=lambda s: s.share, default=None),
        bars=_bars(night),
        budget=BUDGET_S,
        order=STEPS,
        gaps=night.gaps(),
        most=ROWS,
        newest=NEWEST,
        pace=night.pace(),
        latency=night.latency(),
        elsewhere={n: count for n, count in open_nights(shared.database).items() if n != chosen},
        **_focal_plane(shared, night, colour, visit),
    )
    again = any(v["state"] == VisitState.QUEUED for v in night.failures)
    waits = status["unpublished_alerts"] or status["unpublished_corrections"]
    # of held alerts no age is shown, but nothing else says when they are released
    return {"body": body, "ages": bool(waits or status["held_alerts"] or again)}


def _focal_plane(shared: Pages, night: Night, colour: str, wanted: int | None) -> dict[str, Any]:
    """Return what the mosaic shows: one visit, the newest that was begun where none is asked for."""
    numbers = list(dict.fromkeys(v["visit"] for v in night.visits))
    begun = [v["visit"] for v in night.visits if v["state"] not in (VisitState.QUEUED, VisitState.WAITING)]
    visit = wanted if wanted in numbers else next(iter([*begun, *numbers]), None)
    of_visit = with_metrics(shared.database, [v for v in night.visits if v["visit"] == visit])
    instrument = of_visit[0]["instrument"] if of_visit else None
    detectors = sorted({v["detector"] for v in night.visits if v["instrument"] == instrument})
    names = metric_names(of_visit)
    colour = colour if colour in names else "state"
    tiles, extent, limits = (
        mosaic(shared.settings, of_visit, detectors, colour) if detectors else ([], (1.0, 1.0), None)
    )
    return {
        "visit": visit, "visit_numbers": numbers if len(numbers) <= CHOICES else [], "of_visit": of_visit, "colours": ["state", *names],
        "colour": colour, "tiles": tiles, "extent": extent, "limits": limits,
    }  # fmt: skip


def _bars(night: Night) -> list[Bar]:
    out = []
    for v in night.visits:
        if not v["seconds"]:
            continue
        parts, start_s = [], 0.0
        for name in in_order(v["seconds"]):
            parts.append((name, start_s, float(v["seconds"][name])))
            start_s += float(v["seconds"][name])
        out.append(Bar(v["visit"], v["detector"], parts, start_s))
        if len(out) == BARS:
            break
    return out
