"""Versions of what is loaded: as the installed distributions say, else as the package itself does."""

import sys
from importlib.metadata import version
from types import ModuleType

import numpy as np
import pytest

from tasks.loaded_versions import loaded_versions


def module(name: str, own: object = None) -> ModuleType:
    made = ModuleType(name)
    if own is not None:
        made.__version__ = own
    return made


def test_versions_are_those_of_the_installed_distributions():
    import lsst.pex.config

    assert lsst.pex.config is not None
    found = loaded_versions()
    assert found["numpy"] == np.__version__
    assert found["pex_config"] == version("lsst-pex-config")
    assert found["python"] == sys.version
    assert "json" not in found


@pytest.mark.parametrize(
    ("names", "own", "expected"),
    [
        (("star_kit-1.2.dist-info", "Other-3.dist-info"), "9", {"star_kit": "1.2", "other": "3"}),
        ((), "9", {"star_kit": "9", "other": "9"}),
        ((), 9, {}),
    ],
)
def test_the_distribution_goes_before_the_package(tmp_path, names, own, expected):
    for name in names:
        (tmp_path / name).mkdir()
    modules = {name: module(name, own) for name in ("star_kit", "star_kit.inner", "other", "_private", "json")}
    found = loaded_versions(modules, [str(tmp_path), str(tmp_path / "missing")])
    assert found == {"python": sys.version} | expected
