"""Differences of images and what was found on them, from Python: the door to the rooms for people and their notebooks.

::

    import alertprod

    new, old = alertprod.read("new.fits"), alertprod.read("old.fits")
    difference = alertprod.subtract(new, old)
    print(difference.sources)

Thin: each function checks what it was given, makes an `Exposure` or columns of it, and calls a room. Inputs are never
changed. Nothing is loaded before it is asked for. The reference is ``docs/python.md``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alertprod.rooms import claim_rooms

if TYPE_CHECKING:
    from alertprod.alert import Alert
    from alertprod.database import open_apdb
    from alertprod.difference import Difference, subtract
    from alertprod.errors import InputType, WcsUnusable
    from alertprod.matching import match
    from alertprod.measuring import photometry
    from alertprod.reading import images, read
    from exposure import Exposure, Instrument, PhotoCalib, SkyWcs, load_instrument
    from tasks.errors import AlertProdError

    __version__: str

_WHERE = {
    "Alert": "alertprod.alert", "AlertProdError": "tasks.errors", "Difference": "alertprod.difference",
    "Exposure": "exposure", "InputType": "alertprod.errors", "Instrument": "exposure", "PhotoCalib": "exposure",
    "SkyWcs": "exposure", "WcsUnusable": "alertprod.errors", "images": "alertprod.reading", "load_instrument": "exposure",
    "match": "alertprod.matching", "open_apdb": "alertprod.database", "photometry": "alertprod.measuring",
    "read": "alertprod.reading",
    "subtract": "alertprod.difference",
}  # fmt: skip

claim_rooms()

__all__ = [
    "Alert",
    "AlertProdError",
    "Difference",
    "Exposure",
    "InputType",
    "Instrument",
    "PhotoCalib",
    "SkyWcs",
    "WcsUnusable",
    "__version__",
    "images",
    "load_instrument",
    "match",
    "open_apdb",
    "photometry",
    "read",
    "subtract",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("alertprod")
    elif name in _WHERE:
        value = getattr(import_module(_WHERE[name]), name)
    else:
        raise AttributeError(f"module 'alertprod' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
