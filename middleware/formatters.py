"""How a Butler's datastore reads and writes our types; parts of an exposure come without its pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from lsst.daf.butler import FormatterV2, Location
from lsst.resources import ResourcePath

from exposure import Exposure, ExposureCatalog
from exposure.camera import Camera
from exposure.errors import ImageAmbiguous
from exposure.instrument import Instrument, load_instrument
from exposure.io.components import read_part
from exposure.io.opening import open_fits
from exposure.io.plain import header_visit_info
from exposure.io.several import images_in
from tasks.storage_classes import BACKGROUND, CAMERA, EXPOSURE, EXPOSURE_CATALOG, register_storage_classes

__all__ = [
    "FORMATTERS",
    "ArrayFormatter",
    "CameraFormatter",
    "ExposureCatalogFormatter",
    "ExposureFormatter",
    "FrameFormatter",
    "image_of",
]

register_storage_classes()


class _Local(FormatterV2):
    """A formatter of local files whose extension does not matter when they are read."""

    can_read_from_local_file = True

    @classmethod
    def validate_extension(cls, location: Location) -> None:
        """Take any: what is in a file is seen when it is opened."""


class ExposureFormatter(_Local):
    """Exposures in our own layout."""

    default_extension = ".fits"

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Return the exposure, or one of its parts."""
        return Exposure.read_fits(path) if component is None else read_part(path, component)

    def write_local_file(self, in_memory_dataset: Exposure, uri: ResourcePath) -> None:
        """Write an exposure."""
        in_memory_dataset.write_fits(uri.ospath)


class FrameFormatter(_Local):
    """Frames as a camera made them, read by the rules of its instrument file; visit and detector are those of the data id."""

    default_extension = ".fits"

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Return the exposure, or one of its parts."""
        rules = load_instrument(str(self.data_id["instrument"]))
        identity = {"visit": int(self.data_id["exposure"]), "detector": int(self.data_id["detector"])}
        image = image_of(Path(path), rules, identity["detector"])
        return (
            Exposure.read_fits(image, rules, identity)
            if component is None
            else read_part(image, component, rules, identity)
        )

    def write_local_file(self, in_memory_dataset: Exposure, uri: ResourcePath) -> None:
        """Write an exposure in our own layout."""
        in_memory_dataset.write_fits(uri.ospath)


class ExposureCatalogFormatter(_Local):
    """Tables of the exposures of a visit."""

    default_extension = ".fits"

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Return the catalogue."""
        return ExposureCatalog.read_fits(path)

    def write_local_file(self, in_memory_dataset: ExposureCatalog, uri: ResourcePath) -> None:
        """Write a catalogue."""
        in_memory_dataset.write_fits(uri.ospath)


class CameraFormatter(_Local):
    """Camera files."""

    default_extension = ".yaml"

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Return the camera."""
        return Camera.read(path)

    def write_local_file(self, in_memory_dataset: Camera, uri: ResourcePath) -> None:
        """Write a camera."""
        in_memory_dataset.write(uri.ospath)


class ArrayFormatter(_Local):
    """Plain arrays, such as a background at each pixel."""

    default_extension = ".npy"

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Return the array."""
        return np.load(path, allow_pickle=False)

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Write an array."""
        with Path(uri.ospath).open("wb") as file:
            np.save(file, in_memory_dataset, allow_pickle=False)


FORMATTERS = {
    EXPOSURE: "middleware.formatters.ExposureFormatter",
    EXPOSURE_CATALOG: "middleware.formatters.ExposureCatalogFormatter",
    CAMERA: "middleware.formatters.CameraFormatter",
    BACKGROUND: "middleware.formatters.ArrayFormatter",
}
"""Formatters by storage class, as a repository's ``butler.yaml`` names them."""


def image_of(path: Path, rules: Instrument, detector: int) -> Path:
    """Return the path of a frame or, where its file holds several, that of the image of a detector.

    Raises
    ------
    ImageAmbiguous
        Several images, and none is of the detector.
    """
    with open_fits(path) as hdus:
        if "ALERTPRD" in hdus[0].header:
            return path
        images = images_in(path, rules)
        if len(images) == 1:
            return path
        for image in images:
            if header_visit_info(hdus, rules, name=image.of(path)).detector == detector:
                return image.of(path)
    raise ImageAmbiguous(f"{path.name} holds {len(images)} images, none of detector {detector}", detector=detector)
