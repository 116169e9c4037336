"""What documents and docstrings name is there: every file, folder, module, and what they say is in a module."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("alertprod", "alerts", "apdb", "association", "benchmarks", "calibration", "diffim", "examples", "exposure", "forced",
         "middleware", "migrations", "service", "simulation", "tasks", "tests", "tools")  # fmt: skip
ROOM = "|".join(ROOMS)
FILE = re.compile(rf"(?<![\w./-])(?:{ROOM})/[\w./-]*(?:\.\w+|/)(?![\w/*{{<])")
DOTTED = re.compile(rf"`~?((?:{ROOM})(?:\.[A-Za-z_]\w*)+)(?:\(\))?`|-m ((?:{ROOM})(?:\.[a-z_]\w*)+)")
ENDINGS = {"md", "py", "toml", "yaml", "sql", "json"}  # of files whose name begins like a room
VARIABLES = {"exposure.sources"}  # of a parameter that is called like a room
WRITTEN = {"benchmarks/results/"}  # by running them


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def texts(source: Path) -> list[str]:
    """The text of a document, or the docstrings of the modules of a room."""
    if source.suffix == ".md":
        return [source.read_text(encoding="utf-8")]
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(source.rglob("*.py"))]
    found = [ast.get_docstring(node) for tree in trees for node in ast.walk(tree) if isinstance(node, holders)]
    return [text for text in found if text]


@cache
def names_of(module: Path) -> frozenset[str]:
    """What a module defines, imports or publishes; of classes also their members as ``Class.member``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        elif isinstance(node, ast.Assign) and "__all__" in [getattr(t, "id", None) for t in node.targets]:
            names |= set(ast.literal_eval(node.value))
    return frozenset(names)


def problem_of(dotted: str) -> str | None:
    """What is wrong with a dotted name, None when all of it is there."""
    parts = dotted.split(".")
    if parts[-1] in ENDINGS or dotted in VARIABLES:
        return None
    for k in range(len(parts), 0, -1):
        folder = ROOT.joinpath(*parts[:k])
        module = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        if k == len(parts) and (module.exists() or folder.is_dir()):
            return None
        if module.exists():
            missing = [name for name in parts[k : k + 1] if name not in names_of(module)]
            return f"{dotted}: {module.relative_to(ROOT)} has no {missing[0]}" if missing else None
    return f"{dotted}: no such module"


SOURCES = [*documents(), *(ROOT / room for room in ROOMS)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_named_files_and_folders_are_there(source):
    named = {name for text in texts(source) for name in FILE.findall(text)}
    assert [name for name in sorted(named - WRITTEN) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_named_modules_hold_what_is_said(source):
    named = {a or b for text in texts(source) for a, b in DOTTED.findall(text)}
    assert [p for p in map(problem_of, sorted(named)) if p] == []


def test_the_check_sees_what_is_not_there():
    assert FILE.findall("see `service/api/app.py`, service/nothing.py and diffim/pixels/ (not shared/x.py)") == [
        "service/api/app.py",
        "service/nothing.py",
        "diffim/pixels/",
    ]
    assert DOTTED.findall("`tasks.base.make_task` and python -m service.workers.job") == [
        ("tasks.base.make_task", ""),
        ("", "service.workers.job"),
    ]
    assert problem_of("tasks.base.make_task") is None
    assert problem_of("tasks.base.no_such_name")
    assert problem_of("service.nowhere.x")
