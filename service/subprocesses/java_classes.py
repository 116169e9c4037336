"""Java's archive of Kafka's classes (class data sharing, JEP 350): with it a broker starts with half of the work.

The archive is written once, by a broker that starts and stops, and lies beside the jars. Java goes without one that is not
of these jars; another Java has one of its own.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["archive_options", "new_archive"]


def _archive(jars: Path) -> Path:
    java = Path(shutil.which("java") or "java").resolve()
    return jars / f"classes-{java.stat().st_mtime_ns:x}.jsa"


def archive_options(jars: Path) -> list[str]:
    """Return what to tell Java so that it uses the archive, nothing where there is none."""
    archive = _archive(jars)
    return [f"-XX:SharedArchiveFile={archive}"] if archive.exists() and archive.stat().st_size else []


@contextmanager
def new_archive(jars: Path) -> Iterator[Path | None]:
    """Give the file that Java is to write at the broker's exit; it is the archive from then on.

    None where there is nothing to do: the archive is there, another process writes it now, or the jars lie where we may not
    write. Where Java wrote nothing an empty file says so, and it is not tried again.
    """
    archive = _archive(jars)
    if archive.exists() or not os.access(jars, os.W_OK):
        yield None
        return
    with (jars / "classes.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        if archive.exists():  # made since
            yield None
            return
        partial = archive.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        yield partial
        with suppress(OSError):
            partial.touch()
            partial.rename(archive)
