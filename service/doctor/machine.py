"""This machine as a service needs it: folders that can be written, room on their disks, images, templates, memory, secrets."""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from service.doctor.findings import Finding, good, skipped, warning, wrong
from service.settings import PREFIX, Settings, unknown_names

__all__ = ["machine_findings"]

ROOM_WARNING, ROOM_WRONG = 10 << 30, 1 << 30  # bytes that are free
WRITTEN = ("archive_dir", "upload_dir", "template_dir", "products_dir")
SECRET_FILES = ("DATABASE_URI_FILE", "SCHEMA_REGISTRY_FILE", "KAFKA_CLIENT_FILE", "ADMIN_TOKEN_FILE", "TLS_KEY")
_GIB = 1 << 30


def machine_findings(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Give what was found."""
    yield from _names(environment)
    for name in WRITTEN:
        value = getattr(settings, name)
        if value is not None:
            yield _folder(name, str(value))
    yield from _images(settings)
    yield _templates(settings)
    yield _memory(settings)
    yield from _secrets(environment)


def _names(environment: Mapping[str, str]) -> Iterator[Finding]:
    for name, nearest in unknown_names(environment):
        todo = "'alertprod config' lists the settings" if nearest is None else f"did you mean {nearest}?"
        yield warning("settings", f"{name} is set, and nothing reads it", todo)


def _folder(name: str, value: str) -> Finding:
    variable = f"{PREFIX}{name.upper()}"
    about = f"folder {variable}={value}"
    if "://" in value or "::" in value:
        return skipped(about, "a store elsewhere: not looked at")
    directory = Path(value)
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    if not os.access(directory, os.W_OK | os.X_OK):
        return wrong(
            about, f"the user of this process may not write in {directory}", f"chown it, or name another: {variable}"
        )
    free = shutil.disk_usage(directory).free
    text = f"{free / _GIB:.0f} GiB free"
    todo = "make room: 'alertprod apdb archive' and 'alerts' of old months, ALERTPROD_UPLOAD_KEEP_DAYS for uploads"
    if free < ROOM_WRONG:
        return wrong(about, text, todo)
    return warning(about, text, todo) if free < ROOM_WARNING else good(about, text)


def _images(settings: Settings) -> Iterator[Finding]:
    if not settings.data_roots:
        todo = "name their directories in ALERTPROD_DATA_ROOTS, or send images in the request"
        yield warning("images", "no directory is named: messages that name files are refused", todo)
    for root in settings.data_roots:
        if os.access(root, os.R_OK | os.X_OK):
            yield good("images", f"{root} can be read")
        else:
            what = "may not be read by the user of this process" if root.exists() else "is not there"
            yield wrong("images", f"{root} {what}", "mount it, or correct ALERTPROD_DATA_ROOTS")


def _templates(settings: Settings) -> Finding:
    """Look for the set that is used where a message names none (a version counts with its manifest)."""
    chosen, about = settings.template_set, "templates"
    root = Path(settings.template_dir)
    sets = sorted({path.parent.parent.name for path in root.glob("*/v*/manifest.json")})
    todo = f"alertprod template build --instrument NAME --name {chosen} FRAMES, or set ALERTPROD_TEMPLATE_SET"
    if not sets:
        return warning(about, f"there are no template sets in {root}: no visit can be subtracted", todo)
    if chosen not in sets:
        return warning(
            about, f"no set {chosen!r}, which messages mean that name none; there are: {', '.join(sets)}", todo
        )
    return good(about, f"{len(sets)} sets: {', '.join(sets[:10])}")


def _memory(settings: Settings) -> Finding:
    jobs = settings.workers or os.cpu_count() or 1
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    text = f"{jobs} job processes of a worker may take {settings.job_memory_gb:g} GiB each; this machine has {have:.0f} GiB"
    if jobs * settings.job_memory_gb > have:
        return warning(
            "memory", text, "lower ALERTPROD_WORKERS or ALERTPROD_JOB_MEMORY_GB, or the system ends processes"
        )
    return good("memory", text)


def _secrets(environment: Mapping[str, str]) -> Iterator[Finding]:
    for name in SECRET_FILES:
        path = environment.get(f"{PREFIX}{name}")
        if not path:
            continue
        try:
            mode = Path(path).stat().st_mode
        except OSError as error:
            yield wrong("secrets", f"{PREFIX}{name}={path}: {error.strerror}", "mount the file, or correct the name")
            continue
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield warning("secrets", f"{path} can be read by every user of this machine", f"chmod o-rwx {path}")
        else:
            yield good("secrets", f"{path} is closed to others")
