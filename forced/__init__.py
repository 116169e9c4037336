"""Photometry at given sky positions; `ForcedPhotCcdFromDataFrameTask`.

Imports: ``exposure``, ``tasks``. Kernels take arrays, PSF and positions and give tables; no I/O, no database.
"""

from exposure.photometry import forced_psf_photometry
from forced.task import ForcedPhotCcdFromDataFrameConfig, ForcedPhotCcdFromDataFrameTask

__all__ = ["ForcedPhotCcdFromDataFrameConfig", "ForcedPhotCcdFromDataFrameTask", "forced_psf_photometry"]
