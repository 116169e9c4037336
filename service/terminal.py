"""What commands show: lines and progress on standard error, tables on standard output.

rich is loaded when something is shown: a command that prints JSON does not wait for it.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress

UNFOLDED = 10_000  # columns

__all__ = ["print_table", "progress", "quiet", "say"]


def quiet() -> AbstractContextManager[object]:
    """Let what libraries print or log on standard output go to standard error: the answer stands alone there."""
    return redirect_stdout(sys.stderr)


def say(text: str, error: bool = False) -> None:
    """Print a line on standard error; that of an error is red, and is not broken where the terminal ends.

    Where standard error is gone (the terminal was closed) nothing is said: work does not end for that.
    """
    from rich.console import Console

    with suppress(OSError):
        Console(stderr=True).print(text, style="red" if error else None, highlight=False, markup=False, soft_wrap=error)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table on standard output: as wide as the terminal, or, for a file or a pipe, as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else UNFOLDED).print(table)


@contextmanager
def progress(text: str, total: int | None = None, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Show how far something is; the body calls ``step(done)``, ``step(done, total)`` or ``step(done, total, text)``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as shown:
        task = shown.add_task(text, total=total)

        def step(done: int, of: int | None = total, now: str | None = None) -> None:
            shown.update(task, completed=done, total=None if of is None else max(of, done), description=now)

        yield step
