"""Images in memory (arrays, lists of HDUs) to exposures: written to a temporary file and read as any plain file is.

So the same pixels give the same exposure, wherever they come from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from numpy.typing import NDArray

from exposure.errors import FitsUnreadable
from exposure.exposure import Exposure
from exposure.instrument import Instrument
from exposure.io.native import read_planes
from exposure.mask import PLANES
from tasks.arrays import Flags

__all__ = ["as_file", "exposure_of_arrays"]

_STORAGE = ("BZERO", "BSCALE", "BLANK", "EXTNAME", "EXTVER")  # how the pixels stood in the file they came from


@contextmanager
def as_file(hdus: fits.HDUList, name: str = "the list of HDUs") -> Iterator[Path]:
    """Write a list of HDUs to a file that is gone afterwards; the list, which writing would change, is left as it is.

    Raises
    ------
    FitsUnreadable
        It cannot be written.
    """
    with TemporaryDirectory(prefix="alertprod-") as folder:
        path = Path(folder) / name
        try:
            fits.HDUList([hdu.copy() for hdu in hdus]).writeto(path, output_verify="ignore")
        except (OSError, ValueError, TypeError, VerifyError) as error:
            raise FitsUnreadable(f"the list of HDUs cannot be read as FITS: {error}") from error
        yield path


def exposure_of_arrays(
    image: NDArray[Any],
    rules: Instrument,
    *,
    variance: NDArray[Any] | None = None,
    bad: Flags | None = None,
    cards: fits.Header | None = None,
) -> Exposure:
    """Return an exposure with pixels of its own.

    Parameters
    ----------
    image, variance
        Shape (height, width), any real type.
    rules
        Camera whose gain, saturation and bad edges hold.
    bad
        True where a pixel must not be used: it becomes ``NO_DATA``.
    cards
        Header whose cards the rules may ask for.
    """
    header = None if cards is None else cards.copy()
    if header is not None:
        for name in _STORAGE:
            header.remove(name, ignore_missing=True)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(_own(image), header, name="IMAGE")]
    if variance is not None:
        hdus.append(fits.ImageHDU(_own(variance), name="VARIANCE"))
    if bad is not None:
        header = fits.Header([("HIERARCH MP_NO_DATA", PLANES["NO_DATA"])])
        hdus.append(fits.ImageHDU(np.asarray(bad, np.int32) << PLANES["NO_DATA"], header, name="MASK"))
    names = {"image": "IMAGE", "variance": "VARIANCE", "mask": "MASK", "psf": None}
    planes = rules.planes.model_copy(update=names)
    with as_file(fits.HDUList(hdus), "the array") as path:
        return read_planes(path, rules.model_copy(update={"planes": planes}))


def _own(plane: NDArray[Any]) -> NDArray[Any]:
    """Return a plane in a type that FITS knows."""
    storable = plane.dtype.kind in "iu" or plane.dtype.itemsize in (4, 8)
    return plane if storable else plane.astype(np.float32)
