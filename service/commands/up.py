"""``alertprod up``: a whole service on this machine until Ctrl-C; ``alertprod top``: its night in a terminal."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.options import open_database, read_settings
from service.terminal import say

__all__ = ["top", "up"]


def up(
    data: Annotated[
        Path | None, typer.Option(help="keep everything here, and go on from it; else it is deleted")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="of the API; 8080 by default, or a free one")
    ] = None,
    root: Annotated[
        list[Path] | None, typer.Option(help="directory of the images that messages may name (repeat); else this one")
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="feed a simulated survey: something to see")] = False,
    show: Annotated[bool, typer.Option("--open", help="open the dashboard in a browser")] = False,
) -> None:
    """Run embedded servers and all roles of the service until Ctrl-C; print the dashboard's address and what to set elsewhere."""
    from service.local.up import run_up

    read_settings()  # what is wrong in the environment is said before servers start
    run_up(data, port, root or [], say, simulate=simulate, show=show)


def top(
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="seconds between two looks")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="look once, print, end")] = False,
) -> None:
    """Show the newest night in this terminal until Ctrl-C: states, steps against the budget, failures, alerts."""
    from service.local.top import run_top

    run_top(open_database(), read_settings().alert_topic, every, once)
