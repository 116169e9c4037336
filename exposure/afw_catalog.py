"""Visit summaries as the Rubin stack persists them: a table with an archive of objects in further HDUs."""

from os import PathLike

from exposure.catalog import ExposureCatalog

__all__ = ["read_exposure_catalog"]


def read_exposure_catalog(path: "str | PathLike[str]") -> ExposureCatalog:
    """Read an exposure catalogue: ours, or one of the Rubin stack."""
    return ExposureCatalog.read_fits(path)
