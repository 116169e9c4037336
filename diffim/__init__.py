"""Image differencing: templates, matching, decorrelation, detection, measurement; `ImageDifferenceTask`.

Imports: ``exposure``, ``apdb`` (never ``forced``, ``alerts``: same level), ``tasks``. Kernels take arrays and give
arrays; the task is a thin front.
"""

from diffim.errors import DifferencingError, NoTemplate
from diffim.task import ImageDifferenceConfig, ImageDifferenceTask
from diffim.template import TemplateStore, build_template

__all__ = [
    "DifferencingError",
    "ImageDifferenceConfig",
    "ImageDifferenceTask",
    "NoTemplate",
    "TemplateStore",
    "build_template",
]
