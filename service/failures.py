"""What the command line says when something fails: one line and an exit status, the traceback only when asked for."""

import errno
import os
import sys
import traceback
from collections.abc import Callable

from apdb.errors import ApdbError, DatabaseUnavailable, SchemaMismatch
from service.errors import FileMissing, NotAllowed, OutOfMemory, SettingsError, StorageFull, StorageUnavailable
from service.terminal import say
from tasks.errors import AlertProdError

__all__ = ["DEBUG", "debugging", "run_command", "typed"]

DEBUG = (
    "ALERTPROD_DEBUG"  # with the prefix of `service.settings`, which takes as long to load as all the rest of a command
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get(DEBUG, "").lower() not in ("", "0", "false", "no")


def typed(error: BaseException) -> AlertProdError:
    """Return the error of ours that says what an error of the system, the database or the broker means."""
    if isinstance(error, AlertProdError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory("the memory is used up: fewer images at once, smaller images, or more memory")
    if isinstance(error, OSError):
        return _of_system(error)
    module = type(error).__module__.partition(".")[0]
    if module == "psycopg":
        return _of_database(error)
    if module == "sqlalchemy":
        cause = getattr(error, "orig", None)
        return typed(cause) if isinstance(cause, BaseException) and cause is not error else ApdbError(_line(error))
    if module in ("confluent_kafka", "cimpl"):
        from alerts.delivery.target import kafka_error

        told = error.args[0] if error.args else None
        if hasattr(told, "code"):
            return kafka_error(told)
    return AlertProdError(
        f"{type(error).__name__}: {_line(error)} (this is a fault of the program; --debug shows where)"
    )


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _of_system(error: OSError) -> AlertProdError:
    where = str(error.filename) if error.filename is not None else ""
    what = f"{where}: {error.strerror}" if where and error.strerror else _line(error)
    if isinstance(error, ConnectionError | TimeoutError):
        return StorageUnavailable(f"{what}: is the server there, and reachable from here?")
    if error.errno in _FULL:
        return StorageFull(f"{what}: make room there, or name another place")
    if error.errno in _CLOSED:
        return NotAllowed(f"{what}: the user of this process needs the right to it, or name another place")
    if error.errno in _ABSENT or isinstance(error, FileNotFoundError):
        return FileMissing(f"{what}: name what is there")
    return StorageUnavailable(what)


def _of_database(error: BaseException) -> AlertProdError:
    import psycopg

    from apdb.database import AWAY

    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return SchemaMismatch(f"{_line(error)}: run 'alertprod apdb migrate'")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return NotAllowed(f"the database: {_line(error)}: the user of ALERTPROD_DATABASE_URI lacks the right")
    if isinstance(error, psycopg.errors.DiskFull):
        return StorageFull(f"the database: {_line(error)}: make room on its disk")
    if isinstance(error, (*AWAY, psycopg.InterfaceError)):
        return DatabaseUnavailable(f"the database: {_line(error)}")
    return ApdbError(f"the database refused it: {_line(error)}")


def run_command(command: Callable[[], object]) -> None:
    """Run a command and leave the process: what fails is one line on standard error, status 2 for settings, else 1."""
    try:
        command()
    except Exception as error:
        reason = typed(error)
        if debugging():
            traceback.print_exception(error)
        say(f"alertprod: {reason.code}: {' '.join(str(reason).split())}", error=True)
        sys.exit(2 if isinstance(reason, SettingsError) else 1)
