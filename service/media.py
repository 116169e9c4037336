"""Content types of what the service answers beside its own JSON, and what the OpenAPI document says of such an answer."""

from typing import Any

__all__ = ["FITS", "GIF", "PNG", "ROWS", "SVG", "VOTABLE", "XML", "kinds"]

FITS, GIF, PNG, SVG = "application/fits", "image/gif", "image/png", "image/svg+xml"
VOTABLE, XML = "application/x-votable+xml", "application/xml"
_TABLES = ("application/json", "text/csv", "application/vnd.apache.parquet", VOTABLE)


def kinds(*media_types: str, status: int = 200, words: str = "The answer") -> dict[int | str, dict[str, Any]]:
    """Return what the document says of an answer that is none of our JSON: its content types."""
    return {status: {"description": words, "content": {kind: {} for kind in media_types}}}


ROWS = kinds(*_TABLES, words="Rows in the format that was asked for")
