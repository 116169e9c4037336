"""Every member of the five interface documents is there, and takes what is published."""

import importlib
import inspect

import pytest

from tools.published_members import DIFFERENT, MEMBERS, PAGE, table

EMPTY = inspect.Parameter.empty
PAIRS = [(task, name) for task, members in MEMBERS.items() for name in members]


def task_class(name: str) -> type:
    room, kind = name.split(".")
    return getattr(importlib.import_module(room), kind)


def published(task: str, name: str) -> list[inspect.Parameter]:
    names: dict[str, object] = {}
    exec(f"def f{MEMBERS[task][name]}: pass", names)
    return list(inspect.signature(names["f"]).parameters.values())


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_a_member_takes_the_published_arguments(task, name):
    kind = task_class(task)
    static = inspect.getattr_static(kind, name)
    bound = isinstance(static, staticmethod | classmethod)
    ours = list(inspect.signature(getattr(kind, name)).parameters.values())[0 if bound else 1 :]
    assert isinstance(static, classmethod) or name not in ("makeField", "parseAndRun", "applyOverrides")
    theirs = published(task, name)
    mine = {p.name: p for p in ours}
    named = [p for p in theirs if p.kind is not p.VAR_KEYWORD]
    for place, parameter in enumerate(named):
        assert parameter.name in mine, f"{parameter.name} is no argument"
        got = mine[parameter.name]
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert ours[place].name == parameter.name, "another place"
        if parameter.default is not EMPTY:
            assert got.default == parameter.default, "another default"
    # what is ours beside it may be left out
    for parameter in ours:
        if parameter.name not in {p.name for p in named} and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            assert parameter.default is not EMPTY, f"{parameter.name} must be given"
    if any(p.kind is p.VAR_KEYWORD for p in theirs):
        assert any(p.kind is p.VAR_KEYWORD for p in ours)


def test_attributes_are_there_and_what_differs_is_of_a_member():
    for task in MEMBERS:
        assert task_class(task).canMultiprocess is True
    assert task_class("forced.ForcedPhotCcdFromDataFrameTask").dataPrefix == ""
    for task, name in DIFFERENT:
        assert name in MEMBERS[task]


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text(encoding="utf-8") == table(), "python -m tools.published_members"
