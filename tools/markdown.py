"""Tables and names as Markdown."""

from collections.abc import Iterable

__all__ = ["cell", "code", "table"]


def cell(text: object) -> str:
    """Return a text on one line in which nothing ends a column or begins an element."""
    return " ".join(str(text if text is not None else "").split()).replace("|", r"\|").replace("<", "&lt;")


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table."""
    heads = list(head)
    lines = [heads, ["---"] * len(heads), *([cell(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def code(text: object) -> str:
    """Return a name or value as it is typed; nothing for an empty one."""
    plain = " ".join(str(text).split())
    return f"`{plain}`" if plain else ""
