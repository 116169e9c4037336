"""The walls of the house: sizes of modules, functions, argument lists and folders; no circle among rooms at load.

Lines are counted by the syntax tree without docstrings.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("tasks", "exposure", "diffim", "forced", "association", "alerts", "apdb", "calibration", "middleware", "service",
         "simulation", "migrations", "alertprod", "client")  # fmt: skip
MODULE_LINES, FUNCTION_LINES, ARGUMENTS, FOLDER_FILES = 400, 60, 8, 14
FOLDERS = ("diffim", "service", "apdb", "calibration")
HOLDERS = ("calibration.joint",)  # rooms that hold rooms of their own

# Signatures that are published: methods of tasks, functions that docs/python.md names; beside them options of the command
# line and parameters of HTTP requests, known by their decorators.
PUBLISHED = {
    "association/task.py DiaPipelineTask.run",
    "calibration/summary/task.py UpdateVisitSummaryTask.run",
    "alertprod/reading.py read",
    "service/commands/diff.py diff",
    "exposure/photometry.py forced_psf_photometry",
}
DECORATORS = {"command", "callback", "get", "post", "put", "delete"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module by its path."""
    paths = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def docstring_lines(node: ast.Module | ast.ClassDef | Function) -> int:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return (first.end_lineno or 0) - first.lineno + 1
    return 0


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Give every function with its name after those of the classes and functions that hold it."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.ClassDef | Function)
            name = f"{prefix}{child.name}" if named else ""
            if isinstance(child, Function):
                yield name, child
            yield from walk(child, f"{name}." if named else prefix)

    return walk(tree, "")


def argument_count(function: Function) -> int:
    a = function.args
    return sum(x.arg not in ("self", "cls") for x in (*a.posonlyargs, *a.args, *a.kwonlyargs))


def is_door(function: Function) -> bool:
    """Whether a function is a command or answers a request."""
    calls = (d.func for d in function.decorator_list if isinstance(d, ast.Call))
    return any(isinstance(call, ast.Attribute) and call.attr in DECORATORS for call in calls)


def own_lines(function: Function) -> int:
    return (function.end_lineno or 0) - function.lineno + 1 - docstring_lines(function)


@cache
def over() -> dict[str, int]:
    """Return what is over a wall, with its size."""
    out: dict[str, int] = {}
    for path, tree in modules().items():
        documented = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | Function))
        lines = len((ROOT / path).read_text(encoding="utf-8").splitlines()) - sum(map(docstring_lines, documented))
        if lines > MODULE_LINES:
            out[f"{path} lines"] = lines
        for name, function in functions(tree):
            lines, arguments = own_lines(function), argument_count(function)
            if lines > FUNCTION_LINES:
                out[f"{path} {name} lines"] = lines
            if arguments > ARGUMENTS and f"{path} {name}" not in PUBLISHED and not is_door(function):
                out[f"{path} {name} arguments"] = arguments
    folders = Counter(path.rsplit("/", 1)[0] for path in modules() if not path.endswith("__init__.py"))
    out |= {f"{f} files": n for f, n in folders.items() if f.split("/")[0] in FOLDERS and n > FOLDER_FILES}
    return out


def test_nothing_is_over_the_walls():
    assert over() == {}


def test_published_signatures_exist_and_are_long():
    long = {f"{p} {n}" for p, tree in modules().items() for n, f in functions(tree) if argument_count(f) > ARGUMENTS}
    assert long >= PUBLISHED


def loaded_by(tree: ast.Module, name: str) -> Iterator[str]:
    """Give the modules that are imported when a module is loaded: not in functions, not for types alone."""

    def walk(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in body:
            if isinstance(node, ast.If):
                if "TYPE_CHECKING" not in ast.unparse(node.test):
                    yield from walk(node.body)
                yield from walk(node.orelse)
            elif isinstance(node, ast.Try):
                yield from walk(
                    [*node.body, *(s for h in node.handlers for s in h.body), *node.orelse, *node.finalbody]
                )
            elif isinstance(node, ast.ClassDef | ast.With):
                yield from walk(node.body)
            else:
                yield node

    for node in walk(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_of(holder: str) -> dict[str, set[str]]:
    """Return which rooms and modules of a room load which others of it."""
    names = {p.removesuffix(".py").removesuffix("/__init__").replace("/", "."): p for p in modules()}
    depth = holder.count(".") + 1

    def room(name: str) -> str | None:
        parts = name.split(".")
        inside = ".".join(parts[:depth]) == holder and len(parts) > depth
        return parts[depth] if inside else None

    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        if (own := room(name)) is None:
            continue
        loaded = {room(m) for m in loaded_by(modules()[path], name) if m in names}
        graph.setdefault(own, set()).update(m for m in loaded if m not in (None, own))
    return graph


@pytest.mark.parametrize("holder", [*ROOMS, *HOLDERS])
def test_no_circle_among_rooms_when_they_are_loaded(holder):
    try:
        TopologicalSorter(rooms_of(holder)).prepare()
    except CycleError as error:
        pytest.fail(f"{holder}: {' -> '.join(error.args[1])}")
