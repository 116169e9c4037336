"""The options of the tasks: every task that a pipeline names, every option with its limits, choices and default."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.markdown import code, table

__all__ = ["options_of", "tasks", "tasks_page"]

_PIPELINES = Path(__file__).resolve().parents[1] / "middleware" / "pipelines"
_FRAMEWORK = ("connections", "saveLogOutput")


def tasks() -> list[tuple[str, Any]]:
    """Return name and config class of every task that a pipeline has, by name."""
    named = {
        m for p in _PIPELINES.glob("*.yaml") for m in re.findall(r"class: ([\w.]+)", p.read_text(encoding="utf-8"))
    }
    found = {}
    for path in named:
        module, _, name = path.rpartition(".")
        found[name] = getattr(importlib.import_module(module), name).ConfigClass
    return sorted(found.items())


def options_of(config: Any, before: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield name, meaning and default of each option of a config; those of a config inside it have its name before theirs.

    `config` is an object: what its ``setDefaults`` sets is the default.
    """
    for name, field in sorted(config._fields.items()):
        if name in _FRAMEWORK and not before:
            continue
        value = getattr(config, name)
        if hasattr(value, "_fields"):
            yield from options_of(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", _words(field), code(value if value != "" else '""')


def _words(field: Any) -> str:
    words = " ".join(str(getattr(field, "doc", "")).split())
    choices = {k: v for k, v in (getattr(field, "allowed", None) or {}).items() if k is not None}
    if choices:
        ended = words if words.endswith((".", "?")) else f"{words}."
        return f"{ended} " + "; ".join(f"{code(k)}: {' '.join(str(v).split())}" for k, v in choices.items())
    least, most = getattr(field, "min", None), getattr(field, "max", None)
    limits = [f"at least {least:g}"] if least is not None else []
    if most is not None:
        limits += [f"{'at most' if field.maxCheck(most, most) else 'less than'} {most:g}"]
    return f"{words} ({', '.join(limits)})" if limits else words


def tasks_page() -> str:
    """Every option of the tasks, as `task_config` of an instrument file takes them."""
    parts = [
        "# Options of the tasks\n\nSet in an instrument file (`task_config: {ImageDifferenceTask: {NAME: VALUE}}`, "
        "[instruments](../../instruments.md)), or as any task of `lsst.pipe.base` with `pipetask run -c LABEL:NAME=VALUE`. Defaults of "
        "DiaPipelineTask in arcsec [grow with wide stars](../../association.md#radii).\n"
    ]
    for name, config in tasks():
        rows = list(options_of(config()))
        parts.append(f"## {name}\n")
        parts.append(
            table(("option", "what it is", "default"), ((code(n), w, d) for n, w, d in rows))
            if rows
            else "It has no options.\n"
        )
    return "\n".join(parts)
