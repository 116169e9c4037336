"""Products that the service keeps beside the database, when it is told where: difference images."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from service.errors import BadMessage
from service.product_files import difference_path

if TYPE_CHECKING:
    from exposure import Exposure

__all__ = ["StoredDifferences"]


class _Attempt(Protocol):
    @property
    def visit(self) -> int: ...
    @property
    def detector(self) -> int: ...
    @property
    def attempt(self) -> int: ...


class StoredDifferences:
    """Difference images by visit.

    Raises
    ------
    BadMessage
        The service keeps none.
    """

    def __init__(self, directory: Path | None) -> None:
        if directory is None:
            raise BadMessage("no difference images are kept: set ALERTPROD_PRODUCTS_DIR for the workers")
        self._directory = directory

    def __call__(self, visit: _Attempt) -> "Exposure | None":
        """Return the difference image of a visit, None where there is none."""
        from exposure import Exposure

        path = difference_path(self._directory, visit.visit, visit.detector, visit.attempt)
        return Exposure.read_fits(path) if path.exists() else None
