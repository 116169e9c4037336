"""How a Butler handles our types in memory."""

from typing import Any

from lsst.daf.butler import StorageClassDelegate

from exposure.io.components import part_of

__all__ = ["ExposureDelegate"]


class ExposureDelegate(StorageClassDelegate):
    """Parts of an exposure that is in memory."""

    def can_accept(self, inMemoryDataset: Any) -> bool:
        """Return whether it is an exposure."""
        return isinstance(inMemoryDataset, self.storageClass.pytype)

    def getComponent(self, composite: Any, componentName: str) -> Any:
        """Return a part of an exposure."""
        return part_of(composite, componentName)

    def copy(self, inMemoryDataset: Any) -> Any:
        """Return an exposure with pixels of its own."""
        return inMemoryDataset.copy()
