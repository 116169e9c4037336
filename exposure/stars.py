"""The stars of one image as columns: what registration, matching and their checks need to know of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.arrays import F64, I64, Flags
from tasks.errors import CallerError
from tasks.reprs import short_repr

if TYPE_CHECKING:  # half a second to load; a subtraction alone has no tables
    import pandas as pd

__all__ = ["EVIDENCE", "Stars"]

EVIDENCE = "starEvidence"  # attribute of a table
NUMBERS, FLAGS = ("x", "y", "snr", "psfFlux"), ("star", "isolated", "flagged")


@dataclass(frozen=True)
class Stars:
    """Sources that may be kernel stars; every column has shape (N,).

    Parameters
    ----------
    x, y
        Frame px.
    snr, psfFlux
        Signal to noise; flux in the unit of the image.
    star, isolated, flagged
        Whether it is unresolved, has no neighbour that counts, has a pixel nearby that must not be used.
    motion
        Shape (N, 2), px: how far each lies elsewhere in the template by a motion of its own; None: nobody moved.
    size
        Adaptive trace radius^2, px^2; None where it was not measured.
    evidence
        Of there being stars at all (`exposure.star_locus.EVIDENT`); None where it was not looked at.
    """

    x: F64
    y: F64
    snr: F64
    psfFlux: F64
    star: Flags
    isolated: Flags
    flagged: Flags
    motion: F64 | None = None
    size: F64 | None = None
    evidence: float | None = None

    __repr__ = short_repr

    @classmethod
    def none(cls) -> "Stars":
        """Return no stars."""
        numbers, flags = np.zeros(0), np.zeros(0, np.bool_)
        return cls(numbers, numbers, numbers, numbers, flags, flags, flags)

    @classmethod
    def of(cls, table: "pd.DataFrame | Stars") -> "Stars":
        """Return the stars of a table; of stars, themselves. Flags that it does not have are unset, fluxes NaN.

        Raises
        ------
        CallerError
            It has rows, and no x, y or snr.
        """
        if isinstance(table, Stars):
            return table
        missing = [c for c in ("x", "y", "snr") if c not in table]
        if missing and len(table):
            raise CallerError(f"the table of sources has no column {', '.join(missing)}")
        x, y, snr, flux = (
            table[c].to_numpy(np.float64) if c in table else np.full(len(table), np.nan) for c in NUMBERS
        )
        star, isolated, flagged = (
            table[c].to_numpy(np.bool_) if c in table else np.zeros(len(table), np.bool_) for c in FLAGS
        )
        size = table["size"].to_numpy(np.float64) if "size" in table else None
        return cls(x, y, snr, flux, star, isolated, flagged, None, size, table.attrs.get(EVIDENCE))

    def table(self) -> "pd.DataFrame":
        """Return them as a table, motions left out."""
        import pandas as pd

        columns = (*NUMBERS, *FLAGS, "size")
        table = pd.DataFrame({c: values for c in columns if (values := getattr(self, c)) is not None})
        if self.evidence is not None:
            table.attrs[EVIDENCE] = self.evidence
        return table

    def __len__(self) -> int:
        """Return how many there are."""
        return self.x.size

    def take(self, which: "I64 | Flags") -> "Stars":
        """Return some of them: by number, in that order, or by a condition."""
        motion, size = (None if a is None else a[which] for a in (self.motion, self.size))
        return Stars(
            self.x[which],
            self.y[which],
            self.snr[which],
            self.psfFlux[which],
            self.star[which],
            self.isolated[which],
            self.flagged[which],
            motion,
            size,
            self.evidence,
        )

    def and_(self, others: "Stars") -> "Stars":
        """Return these and then others, of the same kind: motions and sizes are those of both, or of neither."""
        both: dict[str, Any] = {}
        for c in (*NUMBERS, *FLAGS, "motion", "size"):
            one, other = getattr(self, c), getattr(others, c)
            both[c] = None if one is None or other is None else np.concatenate([one, other])
        return Stars(**both, evidence=self.evidence)

    def brightest_first(self) -> "Stars":
        """Return them in order of signal to noise; by x where that is equal to 1e-4: rounding must not decide."""
        with np.errstate(invalid="ignore"):
            brightness = np.round(np.log(np.maximum(self.snr, 1e-30)), 4)
        return self.take(np.lexsort((self.x, -brightness)))
