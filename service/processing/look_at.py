"""A visit made again to be looked at: nothing is written. Its images, kernel and PSF as pictures, and a place followed through it."""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffim import ImageDifferenceTask, TemplateStore
from exposure import Exposure
from exposure.preview import good_pixels
from exposure.psf import fwhm_of
from exposure.task_config import task_overrides
from service.processing.explain import explain
from service.processing.images import Clock, calibrated_pair, open_science
from service.processing.instruments import checked_instrument
from service.processing.looks import grey_picture, mask_picture
from service.settings import Settings
from tasks import make_task
from tasks.arrays import F32

__all__ = ["Looked", "look_at", "picture_of", "place_of"]

PLACE = 63  # px of the pictures of a place
SMALL_SPAN = 30.0  # the peak of a kernel or PSF over where its picture turns from linear to logarithmic
SIGNED = ("difference", "kernel", "score")


@dataclass(frozen=True)
class Looked:
    """A pair and its difference in memory.

    Parameters
    ----------
    kernel
        Matching kernel at the middle, None where none was fitted.
    numbers
        Of the image and the subtraction, by name.
    """

    science: Exposure
    template: Exposure
    difference: Exposure
    score: Exposure | None
    kernel: F32 | None
    numbers: dict[str, Any]


def look_at(settings: Settings, message: dict[str, Any]) -> Looked:
    """Subtract again, with the template of now.

    Raises
    ------
    AlertProdError, lsst.pipe.base.NoWorkFound
        The image cannot be opened, calibrated or subtracted.
    """
    rules, roots = checked_instrument(message["instrument"]), [*settings.data_roots, settings.upload_dir]
    science = open_science(message, rules, roots)
    name = message.get("templates") or settings.template_set
    template, _ = calibrated_pair(science, rules, TemplateStore(settings.template_dir), name, Clock())
    overrides = {**task_overrides(ImageDifferenceTask, rules, science), "doWriteScore": True}
    result = make_task(ImageDifferenceTask, overrides).run(science, science.sources, template)
    difference: Exposure = result.subtractedExposure
    x0, y0, width, height = science.bbox
    middle = np.array([x0 + (width - 1) / 2]), np.array([y0 + (height - 1) / 2])
    fit = result.subtractRes
    kernel = None if fit is None else fit.kernel.kernels_at(*middle)[0]
    return Looked(
        science, template.cutout(*science.bbox), difference, result.scoreExposure, kernel, _numbers(science, difference)
    )


def _numbers(science: Exposure, difference: Exposure) -> dict[str, Any]:
    x0, y0, width, height = science.bbox
    out: dict[str, Any] = {"x0": x0, "y0": y0, "width": width, "height": height}
    out["pixelScale"] = science.pixel_scale_arcsec()
    for name, exposure in (("science", science), ("difference", difference)):
        if exposure.psf is not None:
            x, y = exposure.psf.average_position()
            out[f"{name}Fwhm"] = float(fwhm_of(exposure.psf.moments_at(x, y))[0])
    return out


def picture_of(
    looked: Looked, which: str, stretch: str, span: float, box: tuple[int, int, int, int] | None = None
) -> bytes:
    """Return one picture as PNG.

    Parameters
    ----------
    which
        ``science``, ``template``, ``difference``, ``score``, ``mask``, ``kernel`` or ``psf``.
    box
        x0, y0, width, height of a part, px; all by default.
    """
    if which in ("kernel", "psf"):
        small = _small(looked, which)
        sigma = float(np.abs(small).max() or 1.0) / SMALL_SPAN
        return grey_picture(small, np.ones(small.shape, np.bool_), "asinh", SMALL_SPAN, signed=True, noise=sigma)
    exposure = looked.difference if which == "mask" else getattr(looked, which)
    if exposure is None:
        exposure = looked.difference
    if box is not None:
        exposure = exposure.cutout(*_within(box, exposure))
    if which == "mask":
        return mask_picture(exposure.mask)
    good = np.isfinite(exposure.image) if which == "score" else good_pixels(exposure)
    return grey_picture(exposure.image, good, stretch, span, signed=which in SIGNED)


def _small(looked: Looked, which: str) -> F32:
    if which == "kernel":
        return np.zeros((3, 3), np.float32) if looked.kernel is None else looked.kernel
    psf = looked.science.require_psf()
    x, y = psf.average_position()
    return np.asarray(psf.image_at(np.array([x]), np.array([y]))[0], np.float32)


def _within(box: tuple[int, int, int, int], exposure: Exposure) -> tuple[int, int, int, int]:
    """Return the box moved, and made smaller where it must be, so that it lies on the image."""
    x0, y0, width, height = exposure.bbox
    w, h = min(max(box[2], 1), width), min(max(box[3], 1), height)
    return min(max(box[0], x0), x0 + width - w), min(max(box[1], y0), y0 + height - h), w, h


def place_of(
    settings: Settings, looked: Looked | None, visit: int, detector: int, place: dict[str, float], radius: float
) -> dict[str, Any]:
    """Follow a place through a visit, with pictures of it where the visit could be made again.

    Parameters
    ----------
    place
        ``ra`` and ``dec`` (ICRS degrees), or ``x`` and ``y`` (px of the image, where `looked` is there).
    radius
        How far a source may be, arcsec.
    """
    if looked is not None and "x" in place:
        ra, dec = looked.science.require_wcs().pixel_to_sky(np.array([place["x"]]), np.array([place["y"]]))
        place = {**place, "ra": float(ra[0]), "dec": float(dec[0])}
    steps = explain(settings, visit, detector, place["ra"], place["dec"], radius)
    pictures = {} if looked is None else _pictures_of_place(looked, place)
    return {"place": place, "steps": [s.as_dict() for s in steps], "pictures": pictures}


def _pictures_of_place(looked: Looked, place: dict[str, float]) -> dict[str, str]:
    x, y = looked.science.require_wcs().sky_to_pixel(np.array([place["ra"]]), np.array([place["dec"]]))
    if not bool(looked.science.contains(x, y)[0]):
        return {}
    place |= {"x": float(x[0]), "y": float(y[0])}
    box = (round(place["x"]) - PLACE // 2, round(place["y"]) - PLACE // 2, PLACE, PLACE)
    spans = {"science": 100.0, "template": 100.0, "difference": 10.0, "score": 10.0, "mask": 1.0}
    x0, y0, width, height = _within(box, looked.difference)
    place |= {"boxX": x0, "boxY": y0, "boxWidth": width, "boxHeight": height}
    return {w: b64encode(picture_of(looked, w, "asinh", span, box)).decode("ascii") for w, span in spans.items()}
