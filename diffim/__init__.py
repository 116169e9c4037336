"""Image differencing: templates, matching, decorrelation, detection, measurement; `ImageDifferenceTask`.

Imports: ``exposure`` and ``tasks`` (never ``forced``, ``alerts``: same level; nor ``apdb``). Kernels take arrays and give
arrays; the task is a thin front of `diffim.pipeline`. Names are fetched when they are first used: the algorithm
alone needs no framework of tasks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffim.errors import DifferencingError, NoTemplate
    from diffim.task import ImageDifferenceConfig, ImageDifferenceTask
    from diffim.templates.store import TemplateStore, build_template

_HOMES = {
    "DifferencingError": "errors", "ImageDifferenceConfig": "config", "ImageDifferenceTask": "task",
    "NoTemplate": "errors", "TemplateStore": "templates.store", "build_template": "templates.store",
}  # fmt: skip

__all__ = [
    "DifferencingError",
    "ImageDifferenceConfig",
    "ImageDifferenceTask",
    "NoTemplate",
    "TemplateStore",
    "build_template",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diffim' has no attribute {name!r}")
    return getattr(import_module(f"diffim.{_HOMES[name]}"), name)
