"""Which images hold a place on the sky, and how far it is from the others: by their headers, no pixel is read."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from exposure.io.components import read_part
from exposure.io.native import read_wcs
from service.intake.message import image_facts, local_path
from service.processing.instruments import checked_instrument
from service.settings import Settings
from tasks.errors import AlertProdError
from tasks.sphere import chord_arcsec, unit_vectors

__all__ = ["PlaceOnImage", "place_on", "places_on", "where_it_lies"]

SAME_ARCSEC = 1.0  # a projection that leads farther from where it came from does not hold there


@dataclass(frozen=True)
class PlaceOnImage:
    """A place beside, or on, the image of a ccdVisit.

    Parameters
    ----------
    width, height
        Of the image, px.
    x, y
        The place, px of the frame; None where the projection does not reach so far.
    right, up
        How far it is beyond the edge to the right (negative: to the left) and above (negative: below), px; 0 within them.
    east, north
        From the place to the nearest point of the image, arcsec; 0 on it. To its middle, where `x` is None.
    arcsec
        The length of that.
    """

    visit: int
    detector: int
    width: int
    height: int
    x: float | None
    y: float | None
    right: float
    up: float
    east: float
    north: float
    arcsec: float

    @property
    def holds(self) -> bool:
        """Whether the place is on the image."""
        return self.x is not None and self.right == self.up == 0.0

    @property
    def words(self) -> str:
        """How far the place is from the image."""
        if self.holds:
            return f"on detector {self.detector}"
        if self.x is None:
            return f"{self.arcsec / 3600:.3g} degrees from the middle of detector {self.detector}"
        sides = [*([("upper" if self.up > 0 else "lower")] if self.up else [])]
        sides += ["right" if self.right > 0 else "left"] if self.right else []
        edge = f"{' '.join(sides)} {'corner' if len(sides) == 2 else 'edge'}"
        px = float(np.hypot(self.right, self.up))
        return f"{px:.{1 if px < 100 else 0}f} px ({self.arcsec:.{1 if self.arcsec < 100 else 0}f} arcsec) beyond the {edge} of detector {self.detector}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {**asdict(self), "holds": self.holds, "words": self.words}


def place_on(settings: Settings, row: Mapping[str, Any], ra: float, dec: float) -> PlaceOnImage:
    """Return where a place lies on an image.

    Parameters
    ----------
    row
        ``visit``, ``detector`` and ``message`` of the ledger.
    ra, dec
        ICRS degrees.

    Raises
    ------
    AlertProdError
        The file is gone, or its header gives no coordinates.
    """
    message = row["message"]
    rules, roots = checked_instrument(message["instrument"]), [*settings.data_roots, settings.upload_dir]
    facts, path = image_facts(message), local_path(message["science"], roots)
    given = message.get("wcs")
    wcs = read_wcs(local_path(given, roots)) if given else read_part(path, "wcs", rules, facts)
    x0, y0, width, height = read_part(path, "bbox", rules, facts)
    x, y = (float(v[0]) for v in wcs.sky_to_pixel(np.array([ra]), np.array([dec])))
    low, high = np.array([x0, y0]) - 0.5, np.array([x0 + width, y0 + height]) - 0.5
    here = unit_vectors(np.array([ra]), np.array([dec]))[0]
    reached = bool(np.isfinite([x, y]).all()) and _away(wcs, x, y, here)[2] < SAME_ARCSEC
    nearest = np.clip([x, y], low, high) if reached else (low + high) / 2
    beyond = np.array([x, y]) - nearest if reached else np.zeros(2)
    if reached and not beyond.any() and (x >= high[0] or y >= high[1]):  # the edges themselves: `Exposure.contains`
        beyond = np.array([float(x >= high[0]), float(y >= high[1])]) * 1e-9
    east, north, arcsec = (
        (0.0, 0.0, 0.0) if reached and not beyond.any() else _away(wcs, float(nearest[0]), float(nearest[1]), here)
    )
    return PlaceOnImage(
        row["visit"], row["detector"], width, height, x if reached else None, y if reached else None, float(beyond[0]),
        float(beyond[1]), east, north, arcsec,
    )  # fmt: skip


def _away(wcs: Any, x: float, y: float, here: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float, float]:
    """Return how far east and north of a place (unit vector) a pixel is, and the angle between them; arcsec."""
    ra, dec = wcs.pixel_to_sky(np.array([float(x)]), np.array([float(y)]))
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        return 0.0, 0.0, float("inf")
    step = unit_vectors(ra, dec)[0] - here
    east = np.array([-here[1], here[0], 0.0]) / max(float(np.hypot(here[0], here[1])), 1e-12)
    north = np.cross(here, east)
    angle = float(chord_arcsec(np.array([np.linalg.norm(step)]))[0])
    return float(np.degrees(step @ east)) * 3600, float(np.degrees(step @ north)) * 3600, angle


def places_on(
    settings: Settings, rows: Iterable[Mapping[str, Any]], ra: float, dec: float
) -> tuple[list[PlaceOnImage], list[dict[str, Any]]]:
    """Return where a place lies on images, in their order, and those that cannot be asked with ``visit``, ``detector``, ``why``."""
    found, unread = [], []
    for row in rows:  # a file each
        try:
            found.append(place_on(settings, row, ra, dec))
        except AlertProdError as error:
            unread.append({"visit": row["visit"], "detector": row["detector"], "why": f"{error.code}: {error}"})
    return found, unread


def where_it_lies(visit: int, images: list[PlaceOnImage]) -> str:
    """Say how a place that no image of a visit holds lies to the nearest of them."""
    near = sorted((i for i in images if not i.holds), key=lambda i: (i.arcsec, i.detector))[:2]
    if not near:
        return f"no image of visit {visit} can be asked"
    sizes = sorted({(i.width, i.height) for i in images})
    size = f"; the images have {' or '.join(f'{w} x {h}' for w, h in sizes[:3])} px"
    between = len(near) == 2 and near[0].east * near[1].east + near[0].north * near[1].north < 0
    said = ", ".join(i.words for i in near)
    if between and all(i.x is not None for i in near):
        a, b = sorted(i.detector for i in near)
        return f"the place lies between detectors {a} and {b} of visit {visit}: {said}{size}"
    return f"the place lies off all {len(images)} images of visit {visit}, nearest {said}{size}"
