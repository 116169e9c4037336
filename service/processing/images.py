"""The images of a visit: science exposure with what the message says, calibration, template."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration import ReferenceStars
from calibration.characterize import characterize
from diffim import TemplateStore
from exposure import Exposure, Instrument, PhotoCalib
from exposure.flagging.missing import refuse_missing
from exposure.io.native import open_fits, read_wcs
from exposure.io.parts import read_psf
from exposure.io.pixel_planes import read_mask_file, read_variance
from exposure.mask import plane_bits
from service.intake.message import image_facts, local_path

__all__ = ["Clock", "calibrated_pair", "open_science"]


@dataclass
class Clock:
    """Seconds per step of one visit, and the step that goes on, or was the last."""

    seconds: dict[str, float] = field(default_factory=dict)
    current: str = "start"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start, self.current = time.perf_counter(), name
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)


def open_science(message: dict[str, Any], rules: Instrument, roots: list[Path]) -> Exposure:
    """Return the science exposure of a visit message: its file, the planes beside it, and what the message says instead.

    Parameters
    ----------
    message
        A `service.intake.message.VisitMessage` as JSON.
    roots
        Directories that files may lie in.

    Raises
    ------
    ForbiddenLocation, FitsUnreadable, ExposureError
        A file may not be read, cannot be, or does not fit the image.
    """
    facts = image_facts(message)
    if message.get("wcs"):
        facts["wcs"] = read_wcs(local_path(message["wcs"], roots))
    exposure = Exposure.read_fits(local_path(message["science"], roots), rules, facts)
    _put_planes(exposure, message, rules, roots)
    exposure.wcs = facts.get("wcs", exposure.wcs)
    if message.get("photoCalib") is not None:
        exposure.photo_calib = PhotoCalib(float(message["photoCalib"]))
    times = {k: v for k, v in facts.items() if k not in ("wcs", "band")}
    exposure.visit_info = replace(exposure.require_visit_info(), **times)
    exposure.band = facts.get("band", exposure.band)
    return exposure


def _put_planes(exposure: Exposure, message: dict[str, Any], rules: Instrument, roots: list[Path]) -> None:
    """Put the variance, mask and PSF of files that the message names on an exposure."""
    if message.get("variance"):
        exposure.variance = read_variance(local_path(message["variance"], roots), exposure, rules)
    if message.get("mask"):
        exposure.mask &= np.int32(plane_bits(["NO_DATA", "SAT", "EDGE", "BAD"]))  # of pixels and instrument file
        exposure.mask |= read_mask_file(local_path(message["mask"], roots), exposure, rules)
    if message.get("variance") or message.get("mask"):
        refuse_missing(exposure, Path(message["science"]).name)
    if message.get("psf"):
        with open_fits(local_path(message["psf"], roots)) as hdus:
            exposure.psf = read_psf(next(h for h in hdus if h.data is not None), exposure.bbox)


def calibrated_pair(
    science: Exposure, rules: Instrument, templates: TemplateStore, name: str, clock: Clock
) -> tuple[Exposure, dict[str, float]]:
    """Characterise the science exposure (in place) and warp its template; returns the template and what was found.

    Raises
    ------
    AlertProdError, lsst.pipe.base.NoWorkFound
        The image cannot be calibrated, or has no template.
    """
    with clock.step("template"):
        chosen = templates.get(name, science.band)
    with clock.step("characterize"):
        needs_stars = rules.zeropoint in ("relative", "refcat") or rules.characterize.astrometry == "relative"
        reference = ReferenceStars(chosen.stars()) if needs_stars else None
        report = characterize(science, rules, reference).report
    with clock.step("template"):
        return templates.fetch(chosen, science), report
