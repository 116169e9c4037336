"""The night in a terminal, renewed until Ctrl-C."""

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from apdb import Database
    from service.pages.nights.facts import Night

__all__ = ["run_top"]

LINES = 12  # of the newest ccdVisits, and of failures
BAR = 24  # characters
_LOOKS = {
    "done": "green",
    "running": "blue",
    "queued": "dim",
    "waiting": "dim",
    "cancelled": "magenta",
    "failed": "bold red",
    "no_work": "yellow",
    "withdrawn": "magenta",
}


def run_top(database: "Database", topic: str, every: float, once: bool) -> None:
    """Show the newest night until Ctrl-C.

    Parameters
    ----------
    every
        Seconds between two looks.
    once
        Look once and print, as it is done where the output is no terminal.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if once or not console.is_terminal:
        console.print(_screen(database, topic))
        return
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_shown(database, topic), refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        return


def _shown(database: "Database", topic: str) -> "RenderableType":
    """Return the screen, or why there is none now: the database may be back soon."""
    from rich.panel import Panel

    from tasks.errors import TransientError

    try:
        return _screen(database, topic)
    except TransientError as error:
        return Panel(f"{error}", title="no answer, asking again", border_style="red")


def _screen(database: "Database", topic: str) -> "RenderableType":
    from rich.console import Group
    from rich.panel import Panel

    from apdb.queue.status import service_status
    from service.pages.nights.facts import night_of, nights
    from service.pages.words import night_date

    every, status = nights(database), service_status(database, topic)
    night = night_of(database, every[0] if every else None, newest=True)
    if not night.visits:
        return Panel("no visit came yet: post one to /v1/visits, or run 'alertprod up --simulate'", title="alertprod")
    title = f"night {night_date(night.number)} ({night.number})"
    return Group(Panel(_numbers(night, status), title=title), _steps(night), _newest(night), *_failures(night))


def _numbers(night: "Night", status: dict[str, Any]) -> str:
    from service.pages.words import number, seconds

    states = "   ".join(f"[{_LOOKS[s]}]{s.replace('_', ' ')} {n}[/]" for s, n in night.states.items())
    latency, pace = status["alert_latency_s"], night.pace()
    late = f"{seconds(latency['median'])}, p95 {seconds(latency['p95'])}"
    alerts = f"alerts {night.alerts} made, {status['unpublished_alerts']} waiting, {status['held_alerts']} held"
    relay = "leads" if status["relay_leads"] else "[bold red]none[/]"
    return (
        f"{states}\n{number(pace.per_minute if pace else None, 1)} ccdVisits/min   {alerts}   relay {relay}   shutter to alert {late}   "
        f"dead letters {status['dead_letters']['waiting']}"
    )


def _steps(night: "Night") -> "Table":
    from rich.table import Table

    from service.pages.nights.facts import BUDGET_S
    from service.pages.words import seconds

    steps = night.steps()
    table = Table(title=f"time per step (budget {BUDGET_S:.0f} s)", title_justify="left", expand=True)
    for name in ("step", "median", "p95", "longest", "share"):
        table.add_column(name, justify="left" if name in ("step", "share") else "right")
    slowest = max((s.share for s in steps), default=0.0)
    for s in steps:
        bar = "█" * round(BAR * s.share)
        style = "bold" if s.share == slowest else ""
        table.add_row(
            s.name, seconds(s.median), seconds(s.p95), seconds(s.longest), f"{bar} {100 * s.share:.0f} %", style=style
        )
    return table


def _newest(night: "Night") -> "Table":
    from rich.table import Table

    from service.pages.words import mjd_utc, seconds

    table = Table("visit", "det", "UTC", "band", "state", title="newest ccdVisits", title_justify="left", expand=True)
    for name in ("sources", "alerts", "took"):
        table.add_column(name, justify="right")
    for v in night.visits[:LINES]:
        counts = v["counts"] or {}
        table.add_row(
            str(v["visit"]), str(v["detector"]), mjd_utc(v["mjd"], "%H:%M:%S"), v["band"] or "", v["state"],
            str(counts.get("diaSources", "")), str(v["alerts"] or ""),
            seconds(sum(v["seconds"].values()) if v["seconds"] else None), style=_LOOKS.get(v["state"], ""),
        )  # fmt: skip
    return table


def _failures(night: "Night") -> "list[Table]":
    from rich.markup import escape
    from rich.table import Table

    failures = night.failures
    if not failures:
        return []
    table = Table(
        "visit", "det", "tries", "cause", title=f"failures ({len(failures)})", title_justify="left", expand=True
    )
    for v in failures[:LINES]:
        table.add_row(str(v["visit"]), str(v["detector"]), str(v["attempt"]), escape(f"{v['code']}: {v['text']}"[:300]))
    return [table]
