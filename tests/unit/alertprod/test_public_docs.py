"""docs/python.md, the docstrings of alertprod and examples/two_files.py do what they say."""

import doctest
import importlib
import warnings
from pathlib import Path

import pytest

import alertprod
from tests.support.alert_packet import alert_packet
from tests.support.plain_pair import plain_pair, write_pair

ROOT = Path(alertprod.__file__).parents[1]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the pair that the documentation speaks of."""
    write_pair(plain_pair(), tmp_path, variance=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tutorial_runs(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        failed, tried = doctest.testfile(
            str(ROOT / "docs" / "python.md"),
            module_relative=False,
            optionflags=OPTIONS,
            encoding="utf-8",
            globs={"packet": alert_packet()},
        )
    assert failed == 0
    assert tried > 30


def test_the_examples_of_docstrings_run(folder):
    tried = 0
    for name in ("reading", "difference", "measuring", "matching"):
        found = doctest.testmod(importlib.import_module(f"alertprod.{name}"), optionflags=OPTIONS)
        assert found.failed == 0
        tried += found.attempted
    assert tried == 10


def test_every_function_is_documented():
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for name in ("read", "images", "subtract", "photometry", "match", "open_apdb", "Alert"):
        made = getattr(alertprod, name)
        assert made.__doc__
        assert f"\n## {name}\n" in text
        call = made if name != "Alert" else made.__init__
        code = call.__code__
        parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert [p for p in parameters if p != "self" and f"`{p}`" not in section] == []


def test_the_example_script_finds_the_six_transients(folder, capsys):
    from examples.two_files import main

    assert main(folder / "new.fits", folder / "old.fits", folder / "out") == 6
    assert "Difference 256 x 256 px" in capsys.readouterr().out
    assert {p.name for p in (folder / "out").iterdir()} >= {"difference.fits", "sources.csv", "difference.png"}
