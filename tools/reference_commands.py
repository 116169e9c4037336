"""The commands of the reference: every command, also those that parse for themselves, with every argument and option."""

import argparse
from collections.abc import Iterator
from enum import Enum
from typing import Any

from tools.markdown import code, table

__all__ = ["ELSEWHERE", "commands", "commands_page", "options"]

ELSEWHERE = ("alertprod bps",)  # of another program
_HEAD = ("option", "what it is", "default")


def commands_page() -> str:
    """Every command with its arguments and options."""
    import typer

    from service.commands.main import app

    root = typer.main.get_command(app)
    shared = [p for p in root.params if not p.name.endswith("_completion")]
    parts = [
        "# Commands\n\nWhat `alertprod COMMAND --help` says. Exit status: 0, 1 for a failure, 2 for settings and options. Arguments are "
        "in capitals.\n",
        f"## alertprod\n\nBefore the name of any command:\n\n{table(_HEAD, map(_option, shared))}",
    ]
    for name, command in commands():
        parts.append(f"## {name}\n\n{_words(name, command)}\n")
        if rows := options(name, command):
            parts.append(table(_HEAD, rows))
    parts.append(
        "## alertprod-job\n\nTakes what `pipetask` takes, and runs it in a process that stays for the next job of a batch: "
        "[middleware](../../middleware.md#batch).\n"
    )
    return "\n".join(parts)


def commands() -> Iterator[tuple[str, Any]]:
    """Yield name and command of each."""
    import typer

    from service.commands.main import app

    yield from _below("alertprod", typer.main.get_command(app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for key in sorted(inner):
        yield from _below(f"{name} {key}", inner[key])


def _words(name: str, command: Any) -> str:
    words = (command.help or "").strip()
    if name in ELSEWHERE:
        words += "\n\nIts options are those of `lsst.ctrl.bps`; which of them are needed says [middleware](../../middleware.md#batch)."
    if name == "alertprod jointcal run":
        words += (
            "\n\nExit status 1 where the fit did not converge or something was not published: "
            "[joint calibration](../../joint-calibration.md#exit-status). `parseAndRun` of the tasks takes `--id`, `-c`, `-C` and what follows, too."
        )
    return words


def options(name: str, command: Any) -> list[tuple[str, str, str]]:
    """Return name, meaning and default of each argument and option of a command."""
    if name == "alertprod jointcal run":
        from calibration.joint.command import joint_parser

        return [_parsed(a) for a in joint_parser()._actions if a.dest != "help"]
    return [_option(p) for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]


def _option(parameter: Any) -> tuple[str, str, str]:
    names = (
        [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "option"
        else [(parameter.metavar or parameter.name).upper()]
    )
    default = parameter.default
    shown = "" if default in (None, False, ()) or callable(default) else str(getattr(default, "value", default))
    if getattr(parameter, "is_flag", False) and default is True:
        shown = names[0]
    words = (getattr(parameter, "help", None) or "") + _bounds(parameter)
    if parameter.multiple or parameter.nargs == -1:
        words += "" if "repeat" in words or parameter.nargs == -1 else " (may be repeated)"
    return ", ".join(map(code, names)), words, "needed" if parameter.required else code(shown)


def _bounds(parameter: Any) -> str:
    """Say what a value may be, where the command line checks it."""
    kind = getattr(parameter.type_descriptor, "annotation", None)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f" (one of {', '.join(str(c.value) for c in kind)})"
    if parameter.min is None:
        return ""
    return f" (at least {parameter.min:g})" if parameter.max is None else f" ({parameter.min:g} to {parameter.max:g})"


def _parsed(action: argparse.Action) -> tuple[str, str, str]:
    names = action.option_strings or [action.dest.upper()]
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    several = " (one or more)" if action.nargs in ("+", "*") else ""
    default = "" if action.default in (None, False, []) else str(action.default)
    return (
        ", ".join(code(f"{n}{value}") for n in names),
        (action.help or "") + several,
        "needed" if action.required else code(default),
    )
