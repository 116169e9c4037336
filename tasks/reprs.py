"""One-line texts of objects that hold arrays: shape and type of an array, never its numbers."""

from dataclasses import fields
from typing import Any

import numpy as np

__all__ = ["short_repr", "short_value"]

LONGEST = 40  # characters of a text or a tuple that are shown whole
MAX_LENGTH = 290


def short_value(value: Any) -> str:
    """Return a value in a few characters: arrays and tables by their shape, long texts cut."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}[{'x'.join(map(str, value.shape))}]"
    if hasattr(value, "columns") and hasattr(value, "__len__"):
        return f"<table of {len(value)} rows>"
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    if len(text) <= LONGEST or text.startswith("<"):
        return text
    return f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else f"{text[: LONGEST - 3]}..."


def short_repr(instance: Any) -> str:
    """Return ``Name(field=value, ...)`` of a dataclass in less than 300 characters; made to be its ``__repr__``."""
    parts = [f"{f.name}={short_value(getattr(instance, f.name))}" for f in fields(instance) if f.repr]
    text = f"{type(instance).__name__}({', '.join(parts)})"
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 4]}...)"
