"""Cameras as the Butler knows them: a class of this module is made from the instrument file of its name.

``alertprod butler create`` and a pipeline's ``instrument:`` name the class so; a new camera is a file, not a class.
"""

import re
from typing import Any

from lsst.daf.butler import Registry
from lsst.pex.config import Config
from lsst.pipe.base import Instrument as ButlerInstrument

from exposure.errors import InstrumentError
from exposure.instrument import BANDS, Instrument, find_instrument, load_instrument
from middleware.formatters import FrameFormatter

__all__ = ["AlertprodInstrument", "class_name", "instrument_class"]

VISIT_SYSTEM = (0, "one-to-one")  # each exposure is a visit
MODULE = "middleware.instrument"
_LONGEST = 64  # of the name of a class in a registry
_CLASSES: dict[str, type["AlertprodInstrument"]] = {}


class AlertprodInstrument(ButlerInstrument):
    """A camera with an instrument file; subclasses are made by `instrument_class`."""

    name = ""

    @classmethod
    def getName(cls) -> str:
        """Return the name of the instrument file."""
        return cls.name

    @property
    def rules(self) -> Instrument:
        """What the instrument file says."""
        return load_instrument(self.name)

    def register(self, registry: Registry, *, update: bool = False) -> None:
        """Enter the camera, its visit system, and the filters that its file knows (those called as a band are of it)."""
        packer = self.rules.packer()
        camera = {
            "name": self.name,
            "visit_max": packer.n_visits,
            "exposure_max": packer.n_visits,
            "detector_max": packer.n_detectors,
            "visit_system": VISIT_SYSTEM[0],
            "class_name": class_name(self.name),
        }
        with registry.transaction():
            registry.syncDimensionData("instrument", camera, update=update)
            number, name = VISIT_SYSTEM
            registry.syncDimensionData("visit_system", {"instrument": self.name, "id": number, "name": name})
            for physical, band in sorted({**{b: b for b in BANDS}, **self.rules.band_map}.items()):
                registry.syncDimensionData(
                    "physical_filter", {"instrument": self.name, "name": physical, "band": band}, update=update
                )

    def getRawFormatter(self, dataId: Any) -> type[FrameFormatter]:
        """Return what reads a frame."""
        return FrameFormatter

    def applyConfigOverrides(self, name: str, config: Config) -> None:
        """Apply what the instrument file says under ``task_config``: it goes by the class of the task, or by `name`."""
        super().applyConfigOverrides(name, config)
        kinds = (
            name,
            type(config).__name__.removesuffix("Config"),
            type(config).__name__.removesuffix("Config") + "Task",
        )
        for kind in kinds:
            for field, value in (self.rules.task_config.get(kind) or {}).items():
                target: Any = config
                *parents, leaf = field.split(".")
                for parent in parents:
                    target = getattr(target, parent)
                setattr(target, leaf, value)


def class_name(name: str) -> str:
    """Return the full name of an instrument's class, as a registry keeps it.

    Raises
    ------
    InstrumentError
        The name is none that a module can have, or too long.
    """
    full = f"{MODULE}.{name}"
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or len(full) > _LONGEST:
        longest = _LONGEST - len(MODULE) - 1
        raise InstrumentError(
            f"the instrument {name!r} cannot be registered: a Butler needs letters, digits and underscores, at most {longest}"
        )
    return full


def instrument_class(name: str) -> type[AlertprodInstrument]:
    """Return the class of an instrument file.

    Raises
    ------
    InstrumentError
        No file has the name, or it is none that a registry can hold.
    """
    if name not in _CLASSES:
        class_name(name)
        load_instrument(name)
        _CLASSES[name] = type(name, (AlertprodInstrument,), {"name": name, "__module__": MODULE, "__qualname__": name})
    return _CLASSES[name]


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and find_instrument(name) is not None:
        return instrument_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}, and no instrument file has that name")
