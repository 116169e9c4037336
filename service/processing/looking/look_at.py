"""A visit to be looked at: nothing is written. Its images, kernel and PSF as pictures, and a place followed through it.

The difference is the stored one where the service keeps it, else it is made again, with the template of now.
"""

from base64 import b64encode
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from lsst.pipe.base import NoWorkFound

from diffim import ImageDifferenceTask, TemplateStore
from exposure import Exposure
from exposure.preview import good_pixels
from exposure.psf import fwhm_of
from exposure.stamps import gather
from exposure.task_config import task_overrides
from service.processing.explain import MadeAgain, explain
from service.processing.images import Clock, calibrated_pair, open_science
from service.processing.instruments import checked_instrument
from service.processing.looking.looks import grey_picture, mask_picture
from service.settings import Settings
from tasks import AlertProdError, make_task
from tasks.arrays import F32, F64

__all__ = ["Looked", "picture_of", "place_of"]

CUTOUT_SIDE = 63  # px of the pictures of a place
SMALL_SPAN = 30.0  # the peak of a kernel or PSF over where its picture turns from linear to logarithmic
STAR_SIDE, STAR_COLUMNS, STARS_SHOWN, STAR_SPAN = 31, 8, 24, 5.0  # px, stamps in a row and in all, sigma that are white
SIGNED = ("difference", "kernel", "score")


@dataclass(frozen=True)
class _Subtracted:
    """A difference in memory, with its score, the matching kernel at the middle and the stars that judge it; None without any."""

    difference: Exposure
    score: Exposure | None
    kernel: F32 | None
    stars: F32 | None


class Looked:
    """A visit in memory; each part is made when it is asked for first.

    Parameters
    ----------
    message
        Of the visit.
    stored
        Its difference image as it is kept, None where it is made again.

    Raises
    ------
    AlertProdError, lsst.pipe.base.NoWorkFound
        The image cannot be opened; by what is made: calibrated or subtracted.
    """

    def __init__(self, settings: Settings, message: dict[str, Any], stored: Exposure | None = None) -> None:
        self._settings, self._message, self._stored = settings, message, stored
        self._rules = checked_instrument(message["instrument"])
        roots = [*settings.data_roots, settings.upload_dir]
        self.science: Exposure = open_science(message, self._rules, roots)

    @property
    def is_stored(self) -> bool:
        """Whether the difference is the one that was kept."""
        return self._stored is not None

    @cached_property
    def _whole_template(self) -> Exposure:
        """Template on the pixels of the science exposure, which is calibrated by the way."""
        name = self._message.get("templates") or self._settings.template_set
        store = TemplateStore(self._settings.template_dir)
        return calibrated_pair(self.science, self._rules, store, name, Clock())[0]

    @cached_property
    def template(self) -> Exposure:
        """Template cut to the science exposure."""
        return self._whole_template.cutout(*self.science.bbox)

    @cached_property
    def _made(self) -> _Subtracted:
        template = self._whole_template
        overrides = {**task_overrides(ImageDifferenceTask, self._rules, self.science), "doWriteScore": True}
        result = make_task(ImageDifferenceTask, overrides).run(self.science, self.science.sources, template)
        x0, y0, width, height = self.science.bbox
        middle = np.array([x0 + (width - 1) / 2]), np.array([y0 + (height - 1) / 2])
        fit = result.subtractRes
        kernel = None if fit is None else fit.kernel.kernels_at(*middle)[0]
        stars = None if fit is None else _star_residuals(result.subtractedExposure, fit.x, fit.y, fit.judging)
        return _Subtracted(result.subtractedExposure, result.scoreExposure, kernel, stars)

    @property
    def difference(self) -> Exposure:
        """The stored difference, or the one that is made."""
        return self._made.difference if self._stored is None else self._stored

    @property
    def score(self) -> Exposure | None:
        """Significance of the difference; made by subtracting again."""
        return self._made.score

    @property
    def kernel(self) -> F32 | None:
        """Matching kernel at the middle; made by subtracting again."""
        return self._made.kernel

    @property
    def stars(self) -> F32 | None:
        """What stars that the kernel was not fitted to leave in the difference; made by subtracting again."""
        return self._made.stars

    def place_in_picture(self, across: int, from_top: int, part: list[int] | None = None) -> dict[str, float]:
        """Return ``x``, ``y`` (px), ``ra`` and ``dec`` (ICRS degrees) of a pixel of the picture; (0, 0) is its middle.

        A picture that is chosen by a key says (0, 0). It is that of the whole image, or of a part (x0, y0, width, height; px).
        """
        x0, y0, width, height = self.science.bbox
        if part is not None:
            x0, y0, width, height = _within((part[0], part[1], part[2], part[3]), self.science)
        if across == from_top == 0:
            across, from_top = width // 2, height // 2
        x, y = float(x0 + across), float(y0 + height - 1 - from_top)
        if self._stored is None:
            _ = self._whole_template  # calibrates the WCS too, where that is asked for
        wcs = (self.science if self._stored is None else self._stored).require_wcs()
        ra, dec = wcs.pixel_to_sky(np.array([x]), np.array([y]))
        return {"x": x, "y": y, "ra": float(ra[0]), "dec": float(dec[0])}

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """Of the image and the subtraction, by name."""
        difference = self.difference  # made first: it calibrates the science exposure
        return {**_numbers(self.science, difference), "stored": self.is_stored}


def _numbers(science: Exposure, difference: Exposure) -> dict[str, Any]:
    x0, y0, width, height = science.bbox
    out: dict[str, Any] = {"x0": x0, "y0": y0, "width": width, "height": height}
    out["pixelScale"] = difference.pixel_scale_arcsec()
    for name, exposure in (("science", science), ("difference", difference)):
        if exposure.psf is not None:
            x, y = exposure.psf.average_position()
            out[f"{name}Fwhm"] = float(fwhm_of(exposure.psf.moments_at(x, y))[0])
    return out


def _star_residuals(difference: Exposure, x: F64, y: F64, judging: F64) -> F32 | None:
    """Return stamps of difference / sigma side by side, the worst star first, shape (rows x 33, columns x 33); None without any."""
    order = np.argsort(-np.nan_to_num(judging, nan=-1.0))[: min(STARS_SHOWN, int(np.isfinite(judging).sum()))]
    if not order.size:
        return None
    x0, y0 = difference.origin
    sigmas = (difference.image / np.sqrt(difference.variance)).astype(np.float32)
    column, line = (np.floor(v[order] - v0 + 0.5).astype(np.int64) for v, v0 in ((x, x0), (y, y0)))
    stamps = np.pad(gather(sigmas, column, line, STAR_SIDE, np.nan), ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    columns = min(STAR_COLUMNS, order.size)
    rows, side = -(-order.size // columns), STAR_SIDE + 2
    sheet = np.full((rows * columns, side, side), np.nan, np.float32)
    sheet[: order.size] = stamps[:, ::-1]  # the first row of a picture is below
    whole = sheet.reshape(rows, columns, side, side).swapaxes(1, 2).reshape(rows * side, columns * side)
    return np.asarray(whole[::-1], np.float32)


def picture_of(
    looked: Looked | MadeAgain, which: str, stretch: str, span: float, box: tuple[int, int, int, int] | None = None
) -> bytes:
    """Return one picture as PNG.

    Parameters
    ----------
    which
        ``science``, ``template``, ``difference``, ``score``, ``mask``, ``kernel``, ``psf`` or ``stars``.
    box
        x0, y0, width, height of a part, px; all by default.
    """
    if which in ("kernel", "psf") and isinstance(looked, Looked):
        small = _small(looked, which)
        sigma = float(np.abs(small).max() or 1.0) / SMALL_SPAN
        return grey_picture(small, np.ones(small.shape, np.bool_), "asinh", SMALL_SPAN, signed=True, noise=sigma)
    if which == "stars" and isinstance(looked, Looked):
        sheet = np.zeros((3, 3), np.float32) if looked.stars is None else looked.stars
        return grey_picture(sheet, np.isfinite(sheet), "linear", STAR_SPAN, signed=True, noise=1.0)
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
    if looked.science.psf is None:
        _ = looked.template  # which calibrates it
    psf = looked.science.require_psf()
    x, y = psf.average_position()
    return np.asarray(psf.image_at(np.array([x]), np.array([y]))[0], np.float32)


def _within(box: tuple[int, int, int, int], exposure: Exposure) -> tuple[int, int, int, int]:
    """Return the box moved, and made smaller where it must be, so that it lies on the image."""
    x0, y0, width, height = exposure.bbox
    w, h = min(max(box[2], 1), width), min(max(box[3], 1), height)
    return min(max(box[0], x0), x0 + width - w), min(max(box[1], y0), y0 + height - h), w, h


def place_of(
    settings: Settings, looked: Looked | None, visit: int, detector: int, position: dict[str, Any], radius: float
) -> dict[str, Any]:
    """Follow a place through a visit, with pictures of it where the visit could be made again.

    Parameters
    ----------
    position
        ``ra`` and ``dec`` (ICRS degrees), or ``atX`` and ``fromTop`` (px of the picture of the whole or of its
        ``part``, where `looked` is there).
    radius
        How far a source may be, arcsec.
    """
    if looked is not None and "atX" in position:
        position = looked.place_in_picture(int(position["atX"]), int(position["fromTop"]), position.get("part"))
    remade: list[MadeAgain] = []
    steps = explain(settings, visit, detector, position["ra"], position["dec"], radius, keep=remade.append)
    shown = remade[0] if remade else looked
    pictures, refused = {}, ""
    try:
        pictures = {} if shown is None else _pictures_of_place(shown, position)
    except (AlertProdError, NoWorkFound) as error:
        refused = str(error)
    return {"place": position, "steps": [s.as_dict() for s in steps], "pictures": pictures, "noPictures": refused}


def _pictures_of_place(shown: Looked | MadeAgain, position: dict[str, float]) -> dict[str, str]:
    x, y = shown.difference.require_wcs().sky_to_pixel(np.array([position["ra"]]), np.array([position["dec"]]))
    if not bool(shown.science.contains(x, y)[0]):
        return {}
    position |= {"x": float(x[0]), "y": float(y[0])}
    box = (round(position["x"]) - CUTOUT_SIDE // 2, round(position["y"]) - CUTOUT_SIDE // 2, CUTOUT_SIDE, CUTOUT_SIDE)
    spans = {"science": 100.0, "template": 100.0, "difference": 10.0, "score": 10.0, "mask": 1.0}
    if isinstance(shown, Looked) and shown.is_stored:  # which has no score, and is not made again for one
        del spans["score"]
    x0, y0, width, height = _within(box, shown.difference)
    position |= {"boxX": x0, "boxY": y0, "boxWidth": width, "boxHeight": height}
    return {w: b64encode(picture_of(shown, w, "asinh", span, box)).decode("ascii") for w, span in spans.items()}
