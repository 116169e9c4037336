"""Where the APDB of a run outside of the service is: a file, or the environment; a password is in no configuration."""

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from association.errors import AssociationError

__all__ = ["apdb_uri", "has_password"]

_SCHEMES = ("postgresql://", "postgres://")
_VARIABLE = "ALERTPROD_DATABASE_URI"


def has_password(address: str) -> bool:
    """Return whether a URI has a password."""
    if not address.startswith(_SCHEMES):
        return False
    parts = urlsplit(address)
    return bool(parts.password) or "password" in parse_qs(parts.query)


def apdb_uri(address: str) -> str:
    """Return the URI of the APDB.

    Parameters
    ----------
    address
        URI, or name of a file that holds one; empty: what the environment says (``ALERTPROD_DATABASE_URI_FILE``,
        ``ALERTPROD_DATABASE_URI``).

    Raises
    ------
    AssociationError
        Nothing names it, or the file cannot be read.
    """
    if address.startswith(_SCHEMES):
        return address
    named = address or os.environ.get(f"{_VARIABLE}_FILE", "")
    if not named:
        uri = os.environ.get(_VARIABLE, "")
        if not uri:
            raise AssociationError(
                f"neither a unit of work nor apdb_config_url names the APDB, and {_VARIABLE} is not set"
            )
        return uri
    try:
        uri = Path(named).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AssociationError(f"the file {named} with the URI of the APDB cannot be read: {error}") from error
    if not uri.startswith(_SCHEMES):
        raise AssociationError(f"the file {named} holds no URI of a PostgreSQL database (postgresql://...)")
    return uri
