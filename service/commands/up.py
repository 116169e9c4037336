"""``alertprod up``: a whole service on this machine until Ctrl-C."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.options import read_settings
from service.terminal import say

__all__ = ["up"]


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
) -> None:
    """Run embedded servers and all roles of the service until Ctrl-C; print what to set in other shells."""
    from service.local.up import run_up

    read_settings()  # what is wrong in the environment is said before servers start
    run_up(data, port, root or [], say)
