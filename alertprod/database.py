"""The Alert Production Database from Python."""

from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from alertprod.errors import InputType

if TYPE_CHECKING:
    from lsst.dax.apdb import Apdb

__all__ = ["open_apdb"]


def open_apdb(where: Any = None) -> "Apdb":
    """Return a client of an APDB: the published ``lsst.dax.apdb.Apdb`` interface.

    Parameters
    ----------
    where
        ``postgresql://...``; the place of a saved configuration (path, URL, ``label:NAME``); an ``ApdbConfig``; None for
        the database of the settings (``ALERTPROD_DATABASE_URI``).

    Raises
    ------
    InputType
        None of these.
    ApdbError
        A scheme that has no client.
    SchemaMismatch
        The database is empty or of another version; the message names the command to run.
    DatabaseUnavailable
        It does not answer.
    """
    if where is None:
        from service.commands.options import read_settings

        where = read_settings().database()
    elif isinstance(where, PathLike):
        where = fspath(where)
    import apdb

    if not isinstance(where, str):
        from lsst.dax.apdb import ApdbConfig

        if not isinstance(where, ApdbConfig):
            raise InputType(f"an APDB is opened by its URI, a path or an ApdbConfig; got {type(where).__name__}")
    try:
        return apdb.open(where)
    except FileNotFoundError as error:
        raise InputType(
            f"{where!r} is no URI (postgresql://...) and no saved configuration: there is no such file"
        ) from error
