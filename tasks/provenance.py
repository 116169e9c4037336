"""What was run: configs, schemas and package versions beside the results, compared before they are written."""

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.errors import CallerError
from tasks.loaded_versions import loaded_versions

__all__ = [
    "ProvenanceMismatch",
    "config_differences",
    "json_differences",
    "replace_text",
    "write_config",
    "write_guarded",
    "write_package_versions",
    "write_together",
    "write_versions",
]

log = logging.getLogger("alertprod.tasks")


class ProvenanceMismatch(CallerError):
    """A stored config, schema or version differs from the present one; nothing was changed."""

    code = "provenance_mismatch"


def write_guarded(
    path: Path, text: str, *, clobber: bool, backup: bool, differences: Callable[[str, str], list[str]], option: str
) -> None:
    """Write a text unless a different one is there.

    Parameters
    ----------
    clobber
        Replace a different one; with `backup` it is kept as ``name~1``, ``name~2``, ...
    differences
        Says how old and new differ, one line each.
    option
        The option that would replace it, for the message.

    Raises
    ------
    ProvenanceMismatch
        A different one is there and `clobber` is off; or it cannot be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if _created(path, text):  # of two processes that come at once one is the second, and compares
        return
    old = _stored(path, option, unreadable="" if clobber else None)
    if old == text:
        return
    changes = differences(old, text)
    if not changes:
        return
    if not clobber:
        for line in changes:
            log.warning("%s: %s", path.name, line)
        raise ProvenanceMismatch(
            f"{path} differs from the present run ({'; '.join(changes[:20])}); {option} replaces it"
        )
    if backup:
        _keep(path)
    replace_text(path, text)


def _stored(path: Path, option: str, unreadable: str | None = None) -> str:
    """Return what a file holds; `unreadable` where it cannot be read, which is an error where that is None."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if unreadable is not None:
            return unreadable
        raise ProvenanceMismatch(f"{path} is there but cannot be read ({error}); {option} replaces it") from error


def _keep(path: Path) -> None:
    """Move a file aside under the first free number; an older one is never overwritten."""
    number = 1
    while True:
        saved = path.with_name(f"{path.name}~{number}")
        try:
            os.link(path, saved)  # fails where the name exists: no race between check and use
            return
        except FileExistsError:
            number += 1


def replace_text(path: Path, text: str) -> None:
    """Write a text to a file that is whole at any time: the old one, or the new one."""
    os.replace(_part(path, text), path)


def _created(path: Path, text: str) -> bool:
    """Write a text to a file that is not there, whole or not at all; False where there is one, which stays as it is."""
    if path.exists():
        return False
    work = _part(path, text)
    try:
        os.link(work, path)  # fails where the name exists: no race between check and use
    except FileExistsError:
        return False
    finally:
        work.unlink()
    return True


def _part(path: Path, text: str) -> Path:
    work = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    work.write_text(text, encoding="utf-8")
    return work


def config_differences(old: str, new: str) -> list[str]:
    """Return the fields that differ, as ``name: old -> new``."""
    before, after = _assignments(old), _assignments(new)
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _assignments(text: str) -> dict[str, str]:
    out = {}
    for line in text.splitlines():
        name, sign, value = line.partition("=")
        if sign and name.startswith("config."):
            out[name[len("config.") :].strip()] = value.strip()
    return out


def json_differences(old: str, new: str) -> list[str]:
    """Return the keys that differ between two flat JSON objects."""
    try:
        before = json.loads(old)
    except ValueError:
        return ["the stored file is no JSON"]
    if not isinstance(before, dict):
        return ["the stored file is no JSON object"]
    after = json.loads(new)
    return [
        f"{k}: {before.get(k, 'absent')} -> {after.get(k, 'absent')}"
        for k in sorted(before.keys() | after.keys())
        if before.get(k) != after.get(k)
    ]


def write_together(texts: dict[Path, str], *, clobber: bool, backup: bool) -> None:
    """Write several files after all of them were compared: a mismatch leaves every one as it was.

    Raises
    ------
    ProvenanceMismatch
        Names every file and key that differs.
    """
    wrong: list[str] = []
    for path, text in texts.items():
        if path.exists() and not clobber:
            wrong += [f"{path.name}: {d}" for d in json_differences(_stored(path, "clobber"), text)]
    if wrong:
        raise ProvenanceMismatch(f"stored schemas differ ({'; '.join(wrong[:20])}); clobber replaces them")
    for path, text in texts.items():
        write_guarded(path, text, clobber=clobber, backup=backup, differences=json_differences, option="clobber")


def write_versions(path: Path, present: dict[str, Any], *, clobber: bool, backup: bool) -> None:
    """Store package versions; only packages known to both are compared, new ones are added.

    Raises
    ------
    ProvenanceMismatch
        A package has another version than the stored one.
    """
    merged = {str(k): str(v) for k, v in present.items()}
    if path.exists() and not clobber:
        stored = _versions(path)
        wrong = [
            f"{k}: {stored[k]} vs {merged[k]}" for k in sorted(stored.keys() & merged.keys()) if stored[k] != merged[k]
        ]
        if wrong:
            raise ProvenanceMismatch(
                f"Version mismatch ({'; '.join(wrong[:20])}); --clobber-versions replaces the stored ones, --no-versions "
                "does not compare"
            )
        merged = stored | merged
    text = json.dumps(dict(sorted(merged.items())), indent=1)
    write_guarded(path, text, clobber=True, backup=backup and clobber, differences=json_differences, option="clobber")


def _versions(path: Path) -> dict[str, str]:
    """Return stored versions.

    Raises
    ------
    ProvenanceMismatch
        The file cannot be read, or holds none.
    """
    try:
        stored = json.loads(_stored(path, "--clobber-versions"))
    except ValueError as error:
        raise ProvenanceMismatch(f"{path} is no JSON ({error}); --clobber-versions replaces it") from error
    if not isinstance(stored, dict):
        raise ProvenanceMismatch(f"{path} holds no versions; --clobber-versions replaces it")
    return {str(k): str(v) for k, v in stored.items()}


def write_config(path: Path, text: str, *, clobber: bool, backup: bool) -> None:
    """Write a config as `write_guarded` does."""
    write_guarded(path, text, clobber=clobber, backup=backup, differences=config_differences, option="--clobber-config")


def write_package_versions(path: Path, *, clobber: bool, backup: bool) -> None:
    """Write the versions of the packages that are loaded as `write_versions` does."""
    write_versions(path, loaded_versions(), clobber=clobber, backup=backup)
