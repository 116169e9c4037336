"""64-bit ids: release | visit x detector | counter, signed, so that bit 63 is never used.

The layout is that of Rubin's ``IdGenerator``: ``packed = detector + n_detectors * visit``, the catalog id is
``packed + (release << B)`` with ``B = bit_length(n_observations * n_detectors - 1)``, and an id is
``(catalog_id << R) | counter`` with ``R = 63 - B - release_bits`` and a counter that starts at 1.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tasks.arrays import I64
from tasks.errors import CallerError

__all__ = ["IdFactory", "IdGenerator", "IdPacker", "UnpackedId"]


class UnpackedId(NamedTuple):
    """What one id says."""

    release: int
    visit: int
    detector: int
    counter: int


@dataclass(frozen=True)
class IdPacker:
    """Make and read ids for one camera.

    Parameters
    ----------
    n_visits, n_detectors
        Upper bounds (exclusive) of visit and detector numbers.
    n_releases
        Reserved release slots; 1 reserves no bit.

    Raises
    ------
    CallerError
        Visits, detectors and releases leave no bit for the counter.
    """

    n_visits: int
    n_detectors: int
    n_releases: int = 64

    def __post_init__(self) -> None:
        sizes = {"n_visits": self.n_visits, "n_detectors": self.n_detectors, "n_releases": self.n_releases}
        if min(sizes.values()) < 1 or self.counter_bits < 1:
            given = ", ".join(f"{k} {v}" for k, v in sizes.items())
            raise CallerError(
                f"ids of {given} do not fit in 63 bits with a counter: make the sizes smaller (at least 1)"
            )

    @property
    def data_bits(self) -> int:
        """Bits of the packed (visit, detector)."""
        return (self.n_visits * self.n_detectors - 1).bit_length()

    @property
    def release_bits(self) -> int:
        """Bits of the release slot."""
        return (self.n_releases - 1).bit_length()

    @property
    def counter_bits(self) -> int:
        """Bits left for the counter."""
        return 63 - self.data_bits - self.release_bits

    def catalog_id(self, visit: int, detector: int, release: int = 0) -> int:
        """Return the id of the whole catalogue of one (release, visit, detector).

        Raises
        ------
        CallerError
            A number is outside its range.
        """
        for name, value, bound in (
            ("detector", detector, self.n_detectors),
            ("visit", visit, self.n_visits),
            ("release", release, max(self.n_releases, 1)),
        ):
            if not 0 <= value < bound:
                raise CallerError(
                    f"{name} {value} is outside [0, {bound}): set the id sizes of the instrument file",
                    visit=visit,
                    detector=detector,
                )
        return detector + self.n_detectors * visit + (release << self.data_bits)

    def ids(self, visit: int, detector: int, n: int, release: int = 0, start: int = 1) -> I64:
        """Return ids, shape (n,), with counters ``start .. start + n - 1``.

        Raises
        ------
        CallerError
            The counter does not fit in its bits, or a number is outside its range.
        """
        if start + n > 1 << self.counter_bits:
            raise CallerError(
                f"{n} ids from counter {start} do not fit in {self.counter_bits} bits: set smaller id sizes in the instrument file",
                visit=visit,
                detector=detector,
            )
        base = self.catalog_id(visit, detector, release) << self.counter_bits
        return np.int64(base) | np.arange(start, start + n, dtype=np.int64)

    def unpack(self, identifier: int) -> UnpackedId:
        """Return the parts of an id."""
        counter = identifier & ((1 << self.counter_bits) - 1)
        catalog = identifier >> self.counter_bits
        release, packed = catalog >> self.data_bits, catalog & ((1 << self.data_bits) - 1)
        return UnpackedId(release, packed // self.n_detectors, packed % self.n_detectors, counter)


class IdFactory:
    """The older id source: ``(expId << R) | seq`` with ``R = 63 - expBits`` and seq from 1.

    Raises
    ------
    CallerError
        `expId` needs more than `expBits` bits.
    """

    def __init__(self, expId: int, expBits: int) -> None:
        if not 0 <= expBits < 63 or expId < 0 or expId.bit_length() > expBits:
            raise CallerError(f"exposure id {expId} does not fit in {expBits} bits")
        self._reserved = 63 - expBits
        self._upper = expId << self._reserved
        self._last = 0

    def __call__(self) -> int:
        """Return the next id."""
        if (self._last + 1) >> self._reserved:
            raise CallerError(f"id counter {self._last + 1} does not fit in {self._reserved} bits")
        self._last += 1
        return self._upper | self._last

    def take(self, n: int) -> I64:
        """Return the next ids, shape (n,), at once."""
        if n and (self._last + n) >> self._reserved:
            raise CallerError(f"id counter {self._last + n} does not fit in {self._reserved} bits")
        out = np.int64(self._upper) | np.arange(self._last + 1, self._last + n + 1, dtype=np.int64)
        self._last += n
        return out

    def notify(self, identifier: int) -> None:
        """Go on after an id of the same exposure."""
        counter = identifier - self._upper
        if counter < 0 or counter >> self._reserved:
            raise CallerError(f"id {identifier} is not one of this exposure")
        self._last = counter


class IdGenerator:
    """Ids of one catalogue of one (release, visit, detector); each catalogue has its own counter.

    `used` is the last counter that was given away before.
    """

    def __init__(self, packer: IdPacker, visit: int, detector: int, release: int = 0, *, used: int = 0) -> None:
        packer.catalog_id(visit, detector, release)
        self._packer, self._key, self._last = packer, (visit, detector), used
        self._release = release

    @property
    def packer(self) -> IdPacker:
        """The layout of the ids."""
        return self._packer

    def take(self, n: int) -> I64:
        """Return the next ids, shape (n,)."""
        out = self._packer.ids(*self._key, n, self._release, start=self._last + 1)
        self._last += n
        return out
