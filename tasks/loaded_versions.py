"""Versions of the packages that are loaded, without reading what each installed package says of itself."""

import os
import sys
from collections.abc import Iterable
from types import ModuleType

__all__ = ["loaded_versions"]

_NAMESPACE = "lsst."  # of many distributions
_INSTALLED = ".dist-info"


def loaded_versions(
    modules: "dict[str, ModuleType] | None" = None, path: "Iterable[str] | None" = None
) -> dict[str, str]:
    """Return the versions of loaded packages by the names they are imported by, and that of ``python``.

    A version is that of the installed distribution of the same name, as its folder in site-packages tells it, or else what
    the package calls ``__version__``; packages that have neither are left out. Those of ``lsst`` are named without it.

    Parameters
    ----------
    modules, path
        Instead of `sys.modules` and `sys.path`.
    """
    modules = dict(sys.modules) if modules is None else modules
    installed = _installed(sys.path if path is None else path)
    out = {"python": sys.version}
    for name in {package for module in modules for package in _packages(module)} - sys.stdlib_module_names:
        own = None if name.startswith(_NAMESPACE) else getattr(modules.get(name), "__dict__", {}).get("__version__")
        version = installed.get(_plain(name), own if isinstance(own, str) else None)
        if version is not None and not name.startswith("_"):
            out[_plain(name.removeprefix(_NAMESPACE))] = version
    return out


def _packages(module: str) -> list[str]:
    """Return the names that the package of a module may have: ``lsst.utils``, ``lsst.pex.config``, and else the first part."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in (2, 3)[: len(parts) - 1]] if module.startswith(_NAMESPACE) else parts[:1]


def _installed(path: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed distributions; of two of one name the first counts, as it is the one imported."""
    out: dict[str, str] = {}
    for folder in path:
        try:
            entries = os.listdir(folder or ".")
        except OSError:
            continue
        for entry in entries:
            if entry.endswith(_INSTALLED):
                name, _, version = entry.removesuffix(_INSTALLED).partition("-")
                out.setdefault(_plain(name), version)
    return out


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")
