"""Ids of what is measured on an exposure: the layout of its instrument's file, or a common one where there is no such file."""

from exposure.exposure import Exposure
from exposure.instrument import find_instrument
from tasks.errors import CallerError
from tasks.ids import IdGenerator, IdPacker

__all__ = ["claimed_sizes", "exposure_number", "id_generator"]

_DETECTORS = 1 << 10
# bounds of visits; the slots of releases, which nobody else uses here, tell the three layouts apart: their ids never meet
_COMMON = tuple((IdPacker(1 << bits, _DETECTORS, 4), slot) for slot, bits in enumerate((24, 37, 41)))


def _layout(exposure: Exposure) -> tuple[IdPacker, int]:
    """Return the layout of an exposure's ids and their release slot."""
    rules = find_instrument(exposure.require_visit_info().instrument)
    if rules is not None:
        return rules.packer(), 0
    visit = exposure.key[0]
    return next((c for c in _COMMON if visit < c[0].n_visits), _COMMON[-1])


def id_generator(exposure: Exposure, release: int = 0) -> IdGenerator:
    """Return the ids of one catalogue of an exposure, in a release slot of its instrument.

    Without an instrument file, visits below 2**24 leave 2**27 ids, those below 2**37 2**14, and longer ones (13 digits) 2**10.

    Raises
    ------
    CallerError
        Visit, detector or release are beyond the bounds of the layout; without an instrument file there are no releases.
    """
    packer, slot = _layout(exposure)
    if release and any(packer is common for common, _ in _COMMON):
        raise CallerError(f"release {release} has no slot in the ids: name an instrument file", **exposure.where)
    return IdGenerator(packer, *exposure.key, slot + release)


def exposure_number(exposure: Exposure) -> int:
    """Return the number that visit and detector have in the ids of an exposure.

    Raises
    ------
    CallerError
        Visit or detector are beyond the bounds of the layout.
    """
    packer, slot = _layout(exposure)
    return packer.catalog_id(*exposure.key, slot)


def claimed_sizes(packer: IdPacker) -> tuple[int, int, int]:
    """Return the bounds of visits, detectors and releases that a database notes of a layout.

    The three layouts of exposures without an instrument file are one: their ids never meet.
    """
    noted = _COMMON[-1][0] if any(packer is common for common, _ in _COMMON) else packer
    return noted.n_visits, noted.n_detectors, noted.n_releases
