"""The older command line of the tasks: data references in a file, ``--id`` to choose among them, config overrides."""

import argparse
import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lsst.pex.config as pexConfig
import yaml

from tasks.errors import AlertProdError, CallerError

__all__ = [
    "CommandParser",
    "Override",
    "add_id_and_config",
    "apply_override",
    "chosen_ids",
    "exit_status",
    "run_references",
]

_KEYS = ("visit", "detector", "tract")
MOST = 125  # of an exit status: larger ones mean something else to a shell


class CommandParser(argparse.ArgumentParser):
    """A parser whose complaints are errors of ours."""

    def error(self, message: str) -> Any:
        """Raise what is wrong with the command line."""
        raise CallerError(f"{message}; see '{self.prog} --help'")


class Override(argparse.Action):
    """Collect -c and -C in the order given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Note values or files."""
        kind = "file" if option_string in ("-C", "--configfile") else "value"
        namespace.overrides = [*(namespace.overrides or []), *((kind, v) for v in values)]


def add_id_and_config(p: argparse.ArgumentParser) -> None:
    """Add the options that all tasks have."""
    p.add_argument(
        "--id",
        nargs="*",
        action="append",
        default=[],
        metavar="KEY=VALUES",
        help="only these: visit=1^2 detector=0..9 (or ccd=0..9); again: these, too",
    )
    p.add_argument(
        "-c",
        "--config",
        nargs="+",
        action=Override,
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="options of the task",
    )
    p.add_argument(
        "-C", "--configfile", nargs="+", action=Override, metavar="FILE", dest="overrides", help="files of options"
    )
    p.add_argument("--clobber-config", action="store_true", help="replace a stored config that differs")
    p.add_argument("--no-backup-config", action="store_true", help="do not keep what is replaced")
    p.add_argument("--noExit", action="store_true", help="end with status 0 whatever fails or does not converge")
    p.add_argument("--doraise", action="store_true", help="raise errors with their traceback")
    p.add_argument(
        "-j", "--processes", type=int, default=1, help="accepted for old scripts; all is done in one process"
    )
    p.add_argument("-L", "--loglevel", type=_level, default="warning", help="debug, info, warning, error, or a number")


def _level(text: str) -> int:
    level = logging.getLevelNamesMapping().get(text.upper())
    if level is None and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no level: expected debug, info, warning, error, or a number")
    return int(text) if level is None else level


def apply_override(config: Any, kind: str, value: str) -> None:
    """Change a config as one ``-c NAME=VALUE`` (`kind` ``value``) or ``-C FILE`` (``file``) says.

    Raises
    ------
    CallerError
        An unknown field, or a value or file that the config refuses.
    """
    try:
        if kind == "file":
            config.load(value)
            return
        name, sign, text = value.partition("=")
        if not sign:
            raise CallerError(f"-c {value}: expected NAME=VALUE")
        *parents, leaf = name.split(".")
        target: Any = config
        for parent in parents:
            target = getattr(target, parent)
        if leaf not in target._fields:
            raise CallerError(f"-c {value}: {type(target).__name__} has no field {leaf!r}")
        setattr(target, leaf, _value(text, target._fields[leaf]))
    except (AttributeError, pexConfig.FieldValidationError, TypeError, ValueError, OSError, SyntaxError) as error:
        if isinstance(error, CallerError):
            raise
        raise CallerError(f"config override {value!r}: {error}") from error


def _value(text: str, field: Any) -> Any:
    kind = getattr(field, "dtype", str)
    if text == "None":
        return None
    if isinstance(field, pexConfig.ListField):
        return [p for p in text.split(",") if p]
    if isinstance(field, pexConfig.DictField):
        return dict(p.split(":", 1) for p in text.split(",") if p)
    if kind is bool:
        if text not in ("True", "False", "true", "false", "1", "0"):
            raise ValueError(f"{text!r} is no truth value (True or False)")
        return text in ("True", "true", "1")
    return kind(text)


def chosen_ids(options: Sequence[Sequence[str]]) -> list[dict[str, set[int]]]:
    """Return what each ``--id`` chooses, by key; what any of them chooses is wanted, and everything where there is none.

    Numbers are ``visit=1^2``, ``detector=3..7``, ``visit=1..9:2`` (every second); ``ccd`` is ``detector``.

    Raises
    ------
    CallerError
        Another key, one twice, or no numbers.
    """
    groups = [_chosen(texts) for texts in options]
    return groups if all(groups) else []  # one that says nothing chooses all


def _chosen(texts: Sequence[str]) -> dict[str, set[int]]:
    out: dict[str, set[int]] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        name = {"ccd": "detector"}.get(name, name)
        try:
            if not sign or name not in _KEYS:
                raise ValueError("expected visit=, detector= or ccd=; other arguments go before --id, or after --")
            if name in out:
                raise ValueError(f"{name} twice: join the values by ^, or give another --id")
            out[name] = set().union(*map(_numbers, values.split("^")))
        except ValueError as error:
            raise CallerError(f"--id {text}: {error}") from error
    return out


def _numbers(text: str) -> set[int]:
    first, dots, rest = text.partition("..")
    last, _, stride = rest.partition(":")
    return set(range(int(first), int(last) + 1, int(stride or 1))) if dots else {int(first)}


def run_references(
    kind: Any, args: Sequence[str] | None, config: Any, log: Any, keep: bool
) -> tuple[argparse.ArgumentParser, Any, list[dict[str, Any]]]:
    """Run a task on the data references of a file; returns parser, parsed command, and one result for each reference.

    Parameters
    ----------
    kind
        The task's class; its ``runDataRef`` is called.
    args
        Of the command line: the file of references (JSON or YAML, a list of mappings with visit and detector), options.
    keep
        Keep what the task returned in the results.

    Raises
    ------
    CallerError
        Options, config or file cannot be used; nothing was run.
    """
    parser = CommandParser(prog=kind._DefaultName, description=(kind.__doc__ or "").strip().partition("\n")[0])
    parser.add_argument(
        "references", nargs="?", type=Path, help="data references (JSON or YAML): a list of mappings; before --id"
    )
    parser.add_argument("--output", type=Path, help="folder of config and metadata")
    add_id_and_config(parser)
    parsed = parser.parse_args(list(sys.argv[1:] if args is None else args))
    wanted = chosen_ids(parsed.id)
    if parsed.references is None:
        parser.error("the file of data references is missing")
    chosen = kind.ConfigClass() if config is None else config
    kind.applyOverrides(chosen)
    for what, value in parsed.overrides:
        apply_override(chosen, what, value)
    try:
        chosen.validate()
    except (pexConfig.FieldValidationError, ValueError) as error:
        raise CallerError(f"config: {error}") from error
    references = _references(parsed.references, wanted)
    (log or logging.getLogger(kind._DefaultName)).setLevel(parsed.loglevel)
    if parsed.output is not None:
        kind(config=chosen).writeConfig(parsed.output, parsed.clobber_config, not parsed.no_backup_config)
    return parser, parsed, [_run(kind(config=chosen, log=log), r, parsed, keep) for r in references]


def _references(path: Path, wanted: Sequence[Mapping[str, set[int]]]) -> list[dict[str, Any]]:
    try:
        references = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CallerError(f"the data references {path} cannot be read: {error}") from error
    if not isinstance(references, list) or not all(isinstance(r, dict) for r in references):
        raise CallerError(
            f"{path} holds no list of data references: expected [{{visit: 1, detector: 2, exposure: ...}}, ...]"
        )
    lost = next((k for group in wanted for k in group if any(k not in r for r in references)), None)
    if lost is not None:
        raise CallerError(f"--id {lost}=...: not every data reference of {path} has {lost}")
    chosen = [r for r in references if not wanted or any(all(r[k] in v for k, v in group.items()) for group in wanted)]
    if not chosen:
        print(f"nothing to do: --id chooses none of the {len(references)} data references of {path}", file=sys.stderr)
    return chosen


def _run(task: Any, reference: dict[str, Any], parsed: Any, keep: bool) -> dict[str, Any]:
    """Run one reference; returns its ``exitStatus`` (0 or 1), and what failed or came of it."""
    inputs = {k: v for k, v in reference.items() if k not in _KEYS}
    try:
        result = task.runDataRef(inputs)
    except (AlertProdError, FloatingPointError, ArithmeticError, LookupError, OSError, RuntimeError) as error:
        if parsed.doraise:
            raise
        where = {k: reference[k] for k in _KEYS if k in reference}
        print(f"{task.getName()} failed on {json.dumps(where)}: {error}", file=sys.stderr)
        task.log.debug("%s", traceback.format_exc())
        return {"exitStatus": 1, "dataRef": reference, "error": error}
    if parsed.output is not None:
        name = "_".join(str(reference[k]) for k in _KEYS if k in reference)
        task.writeMetadata(parsed.output / name if name else parsed.output)
    return {"exitStatus": 0, "dataRef": reference, **({"result": result} if keep else {})}


def exit_status(results: Sequence[Any], status_of: Callable[[Any], int], *, no_exit: bool) -> None:
    """End the program with the number of failed ids, where any failed and it was not told to go on.

    Raises
    ------
    SystemExit
        Its code is the number, at most 125.
    """
    failed = sum(status_of(r) for r in results)
    if failed and not no_exit:
        raise SystemExit(min(failed, MOST))
