"""Names of the types that the tasks read and write, as a Butler knows them.

They are names of our own: a repository refuses another meaning of those of the Rubin stack (``ExposureF``). They are
registered when the tasks are loaded, so that a graph of quanta can be read wherever a task can; nothing is opened, and
the types themselves are loaded when a dataset is.
"""

from lsst.daf.butler import Config, StorageClassFactory

__all__ = ["BACKGROUND", "CAMERA", "EXPOSURE", "EXPOSURE_CATALOG", "STORAGE_CLASSES", "register_storage_classes"]

EXPOSURE = "AlertprodExposure"
EXPOSURE_CATALOG = "AlertprodExposureCatalog"
CAMERA = "AlertprodCamera"
BACKGROUND = "AlertprodBackground"
_PART = "AlertprodPart"

# components that a formatter reads without the pixels
_PARTS = ("wcs", "bbox", "psf", "visitInfo", "photoCalib", "apCorrMap", "band", "physicalFilter")

STORAGE_CLASSES = {
    _PART: {"pytype": "object"},
    EXPOSURE: {
        "pytype": "exposure.Exposure",
        "delegate": "middleware.storage.ExposureDelegate",
        "derivedComponents": dict.fromkeys(_PARTS, _PART),
    },
    EXPOSURE_CATALOG: {"pytype": "exposure.io.exposure_catalog.ExposureCatalog"},
    CAMERA: {"pytype": "exposure.camera.Camera"},
    BACKGROUND: {"pytype": "numpy.ndarray"},
}


def register_storage_classes() -> None:
    """Make the types known to this process; again changes nothing."""
    StorageClassFactory().addFromConfig(Config({"storageClasses": STORAGE_CLASSES}))
