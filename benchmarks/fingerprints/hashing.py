"""Values of any kind that the package returns, taken apart into arrays and hashed by name."""

import hashlib
import math
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table
from numpy.typing import NDArray

from exposure import (
    Exposure,
    Psf,
)

__all__ = ["Fingerprints", "check_one_tree", "metadata_numbers", "moved"]

# parts of the keys of numbers that no two runs share
CLOCK = (
    "seconds", "duration", "time", "version", "peak", "memory", "wall_s", "startutc", "endutc", "contextswitches",
    "blockinputs", "blockoutputs", "pagefaults", "residentset",
)  # fmt: skip


class Fingerprints:
    """Hashes by name; values of any kind that the package returns are taken apart into arrays."""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}

    def add(self, name: str, value: Any) -> None:
        """Hash a value under a name; tables and exposures give one item per column or plane."""
        parts = _parts(value)
        if parts is None:
            self.hashes[name] = hashlib.sha256(_content(value)).hexdigest()[:16]
            return
        for key, part in parts.items():
            self.add(f"{name}.{key}", part)


def _parts(value: Any) -> Mapping[str, Any] | None:
    """Return the named parts of a container, None where the value is hashed as one."""
    if isinstance(value, pd.DataFrame):
        return {"columns": list(map(str, value.columns))} | {str(c): value[c].to_numpy() for c in value.columns}
    if isinstance(value, Table):
        return {"columns": list(value.colnames)} | {c: np.asarray(value[c]) for c in value.colnames}
    if isinstance(value, Exposure):
        return _exposure_parts(value)
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items() if not any(word in str(k).lower() for word in CLOCK)}
    return None


def _exposure_parts(e: Exposure) -> dict[str, Any]:
    x0, y0, width, height = e.bbox
    x, y = (g.ravel() for g in np.meshgrid(x0 + width * np.array([0.2, 0.5, 0.8]), y0 + height * np.array([0.3, 0.7])))
    parts: dict[str, Any] = {"image": e.image, "variance": e.variance, "mask": e.mask, "bbox": list(e.bbox)}
    if e.psf is not None:
        parts["psf"] = psf_stamps(e.psf, x, y)
    if e.wcs is not None:
        parts["wcs"] = np.array(e.wcs.pixel_to_sky(x, y))
    if e.photo_calib is not None:
        parts["photoCalib"] = e.photo_calib.at(x, y)
    return parts


def psf_stamps(psf: Psf, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[Any]:
    """Return the PSF's images at some positions, with zeros where it is not defined."""
    out = []
    for px, py in zip(x, y, strict=True):
        try:
            out.append(np.asarray(psf.image_at([px], [py])[0]))
        except Exception as error:
            out.append(np.full((1, 1), float(len(type(error).__name__))))
    return np.concatenate([np.append(stamp.shape, stamp.ravel()) for stamp in out])


def _content(value: Any) -> bytes:
    """Return bytes that are equal where values, types and shapes are; every NaN is the same."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, float | int | str | bool | np.generic) or value is None:
        number = value.item() if isinstance(value, np.generic) else value
        return repr(math.nan if isinstance(number, float) and math.isnan(number) else number).encode()
    if isinstance(value, list | tuple):
        return b"[" + b",".join(_content(v) for v in value) + b"]"
    array = np.asarray(value)
    if array.dtype.kind not in "biufcSU":
        return b"objects" + _content(["" if v is pd.NA else v for v in array.ravel().tolist()])
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()


def metadata_numbers(metadata: Any) -> dict[str, Any]:
    """Return the numbers and texts of a task's metadata, without times."""
    values = metadata.to_dict() if hasattr(metadata, "to_dict") else dict(metadata)
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{k}": v for k, v in value.items()}
        else:
            flat[key] = value
    return dict(sorted(flat.items()))


def moved(name: str, *modules: str) -> Any:
    """Return a name from the first of some modules that this tree has: its home may differ between trees."""
    for module in modules:
        room, *parts = module.split(".")
        home = Path(str(import_module(room).__file__)).parent
        if home.joinpath(*parts).with_suffix(".py").exists():
            return getattr(import_module(module), name)
    raise ModuleNotFoundError(f"{name} is in none of {modules}")


def check_one_tree() -> None:
    """Raise where modules of two trees were loaded: an installed tree must not stand in for what this one lacks."""
    root = Path(str(import_module("exposure").__file__)).parents[1]
    rooms = {p.parent.name for p in root.glob("*/__init__.py")}
    files = (getattr(m, "__file__", None) for n, m in list(sys.modules.items()) if n.split(".")[0] in rooms)
    strange = sorted(f for f in files if f is not None and not Path(f).is_relative_to(root))
    if strange:
        raise ImportError(f"this tree is {root}; from another: {', '.join(strange)}")
