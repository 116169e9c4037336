"""Where the detectors sit in the focal plane: a camera file, pixels to millimetres and back."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike

from exposure.errors import InstrumentError
from tasks.arrays import F64, Box

__all__ = ["Camera", "CameraDetector"]


@dataclass(frozen=True)
class CameraDetector:
    """One detector.

    Parameters
    ----------
    bbox
        x0, y0, width, height in pixels.
    pixel_size_mm, offset_mm
        Pixel sides; focal-plane place of the middle of the box.
    rotation_deg
        Counter-clockwise angle of the pixel x axis against the focal X axis.
    """

    id: int
    name: str
    bbox: Box
    pixel_size_mm: tuple[float, float]
    offset_mm: tuple[float, float]
    rotation_deg: float = 0.0
    gain: float = float("nan")
    read_noise: float = float("nan")

    @property
    def centre(self) -> tuple[float, float]:
        """Pixel at the middle of the box."""
        x0, y0, width, height = self.bbox
        return x0 + (width - 1) / 2, y0 + (height - 1) / 2

    def to_focal(self, x: ArrayLike, y: ArrayLike) -> tuple[F64, F64]:
        """Return focal-plane places in mm."""
        cx, cy = self.centre
        u = (np.asarray(x, np.float64) - cx) * self.pixel_size_mm[0]
        v = (np.asarray(y, np.float64) - cy) * self.pixel_size_mm[1]
        c, s = np.cos(np.radians(self.rotation_deg)), np.sin(np.radians(self.rotation_deg))
        return self.offset_mm[0] + c * u - s * v, self.offset_mm[1] + s * u + c * v


@dataclass(frozen=True)
class Camera:
    """Detectors by id; ``longitude``, ``latitude`` (deg east, north) and ``elevation`` (m) of the telescope, if known."""

    name: str
    detectors: dict[int, CameraDetector]
    longitude: float = float("nan")
    latitude: float = float("nan")
    elevation: float = 0.0

    def __getitem__(self, detector: int) -> CameraDetector:
        """Return one detector.

        Raises
        ------
        InstrumentError
            The camera has no such detector.
        """
        if detector not in self.detectors:
            detectors = sorted(self.detectors)
            raise InstrumentError(
                f"camera {self.name} has no detector {detector} (it has {len(detectors)}: {detectors[:5]}...); add it to the "
                "camera file",
                detector=detector,
            )
        return self.detectors[detector]

    def focal_box(self) -> tuple[float, float, float, float]:
        """Return x_min, y_min, x_max, y_max (mm) of all pixels."""
        corners = [
            d.to_focal(
                [x0 - 0.5, x0 + w - 0.5, x0 + w - 0.5, x0 - 0.5], [y0 - 0.5, y0 - 0.5, y0 + h - 0.5, y0 + h - 0.5]
            )
            for d in self.detectors.values()
            for x0, y0, w, h in [d.bbox]
        ]
        x, y = np.concatenate([c[0] for c in corners]), np.concatenate([c[1] for c in corners])
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def nearest(self, detectors: "list[int]", x_mm: float, y_mm: float) -> int:
        """Return which of some detectors has its middle nearest to a place."""
        return min(detectors, key=lambda d: (np.hypot(self[d].offset_mm[0] - x_mm, self[d].offset_mm[1] - y_mm), d))

    @classmethod
    def read(cls, path: "str | PathLike[str]") -> "Camera":
        """Read a camera file (YAML).

        Raises
        ------
        InstrumentError
            The file is missing, is no YAML, or lacks a key; the message names it.
        """
        try:
            raw = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        except (OSError, yaml.YAMLError) as error:
            raise InstrumentError(f"camera file {path} cannot be read: {error}") from error
        if not isinstance(raw, dict) or not isinstance(raw.get("detectors"), list) or not raw["detectors"]:
            raise InstrumentError(f"camera file {path} needs the keys 'name' and 'detectors' (a list)")
        detectors: dict[int, CameraDetector] = {}
        for number, entry in enumerate(raw["detectors"]):
            one = _detector(entry, f"camera file {path}, detector entry {number}")
            if one.id in detectors:
                raise InstrumentError(f"camera file {path} has detector {one.id} twice", detector=one.id)
            detectors[one.id] = one
        observatory = raw.get("observatory", {})
        return cls(
            str(raw.get("name", Path(path).stem)),
            detectors,
            float(observatory.get("longitude", np.nan)),
            float(observatory.get("latitude", np.nan)),
            float(observatory.get("elevation", 0.0)),
        )

    def write(self, path: "str | PathLike[str]") -> None:
        """Write the camera file that `read` reads."""
        entries = [
            {
                "id": d.id,
                "name": d.name,
                "bbox": [d.bbox[0], d.bbox[1], d.bbox[0] + d.bbox[2] - 1, d.bbox[1] + d.bbox[3] - 1],
                "pixel_size_mm": list(d.pixel_size_mm),
                "offset_mm": list(d.offset_mm),
                "rotation_deg": d.rotation_deg,
            }
            | ({"gain": d.gain} if np.isfinite(d.gain) else {})
            | ({"read_noise": d.read_noise} if np.isfinite(d.read_noise) else {})
            for d in self.detectors.values()
        ]
        raw: dict[str, Any] = {"name": self.name, "detectors": entries}
        if np.isfinite(self.longitude):
            raw["observatory"] = {
                "longitude": self.longitude,
                "latitude": self.latitude,
                "elevation": self.elevation,
            }
        Path(path).write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")


def _detector(entry: Any, where: str) -> CameraDetector:
    try:
        x0, y0, x1, y1 = (int(v) for v in entry["bbox"])
        sx, sy = (float(v) for v in entry["pixel_size_mm"])
        ox, oy = (float(v) for v in entry["offset_mm"])
        detector = CameraDetector(
            int(entry["id"]),
            str(entry.get("name", entry["id"])),
            (x0, y0, x1 - x0 + 1, y1 - y0 + 1),
            (sx, sy),
            (ox, oy),
            float(entry.get("rotation_deg", 0.0)),
            float(entry.get("gain", np.nan)),
            float(entry.get("read_noise", np.nan)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InstrumentError(
            f"{where}: {error!r}; each needs id, bbox [4], pixel_size_mm [2], offset_mm [2]"
        ) from error
    if detector.bbox[2] < 1 or detector.bbox[3] < 1 or not (sx > 0 and sy > 0):
        raise InstrumentError(f"{where}: empty bbox or pixel size that is not positive", detector=detector.id)
    return detector
