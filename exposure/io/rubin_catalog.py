"""Visit summaries as the Rubin stack persists them: a table whose objects lie in an archive of further HDUs.

The WCS there is a text of the Starlink AST library; ``starlink-pyast`` reads it.
"""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from exposure.errors import FitsUnreadable
from exposure.field import ChebyshevField
from exposure.io.exposure_catalog import ExposureCatalog, ExposureRecord
from exposure.photocalib import PhotoCalib
from exposure.visitinfo import VisitInfo
from exposure.wcs.ast import AstWcs
from tasks.arrays import Box

__all__ = ["read_exposure_catalog"]

POINTERS = ("wcs", "psf", "photoCalib", "apCorrMap", "validPolygon", "visitInfo", "transmissionCurve", "detector")
_UNIX_EPOCH_MJD = 40587.0


def read_exposure_catalog(path: "str | PathLike[str]") -> ExposureCatalog:
    """Read an exposure catalogue: one of ours, or one of the Rubin stack.

    Raises
    ------
    FitsUnreadable
        The file is neither.
    """
    from exposure.io.native import open_fits

    with open_fits(path) as hdus:
        header = hdus[1].header if len(hdus) > 1 else {}
        if "TABLE" in hdus:
            return ExposureCatalog.read_fits(path)
        if str(header.get("AFW_TYPE", "")).strip() != "EXPOSURE":
            raise FitsUnreadable(f"{Path(path).name} is no exposure catalogue")
        table = _plain_table(hdus[1])
        archive = _Archive(hdus)
        records = {int(row["id"]): _record(row, archive) for row in hdus[1].data}
        return ExposureCatalog(table, records)


def _plain_table(hdu: Any) -> Table:
    table = Table(hdu.data)
    table.remove_columns([c for c in POINTERS if c in table.colnames])
    if "decl" in table.colnames:  # the name before 2023
        table.rename_column("decl", "dec")
    for name in table.colnames:
        if table[name].dtype.byteorder == ">":
            table[name] = table[name].astype(table[name].dtype.newbyteorder("="))
    table.meta["comments"] = [str(c) for c in hdu.header.get("COMMENT", [])]
    return table


class _Archive:
    """Objects by id: the index says in which HDU and rows each lies."""

    def __init__(self, hdus: Any) -> None:
        self.hdus = {
            int(h.header["AR_CATN"]): h.data for h in hdus if "AR_CATN" in h.header and h.name != "ARCHIVE_INDEX"
        }
        index = next(h.data for h in hdus if h.name == "ARCHIVE_INDEX")
        self.index: dict[int, tuple[str, int, int, int]] = {
            int(r["id"]): (str(r["name"]), int(r["cat.archive"]), int(r["row0"]), int(r["nrows"])) for r in index
        }

    def rows(self, key: int, name: str) -> Any:
        """Return the table rows of an object of a kind, None for id 0 or another kind."""
        if key == 0 or key not in self.index or self.index[key][0] != name:
            return None
        _, catalogue, first, count = self.index[key]
        return self.hdus[catalogue][first : first + count]


def _record(row: Any, archive: _Archive) -> ExposureRecord:
    x0, y0 = int(row["bbox_min_x"]), int(row["bbox_min_y"])
    box = (x0, y0, int(row["bbox_max_x"]) - x0 + 1, int(row["bbox_max_y"]) - y0 + 1)
    wcs = archive.rows(int(row["wcs"]), "SkyWcs")
    polygon = archive.rows(int(row["validPolygon"]), "Polygon")
    return ExposureRecord(
        wcs=None if wcs is None else AstWcs(_ast_text(wcs[0]["wcs"]), box),
        photo_calib=_photo_calib(archive, int(row["photoCalib"]), box),
        visit_info=_visit_info(archive, row),
        valid_polygon=None
        if polygon is None
        else np.stack([polygon["vertices_x"], polygon["vertices_y"]], 1).astype(float),
    )


def _ast_text(raw: NDArray[Any]) -> str:
    """The bytes start with the version and kind of the stack's own wrapper: four words."""
    text = bytes(np.asarray(raw, np.uint8)).decode("ascii")
    begin = text.find("Begin FrameSet")
    return text[begin:] if begin >= 0 else text


def _photo_calib(archive: _Archive, key: int, box: Box) -> PhotoCalib | None:
    rows = archive.rows(key, "PhotoCalib")
    if rows is None:
        return None
    row = rows[0]
    mean = float(row["calibrationMean"])
    if not (np.isfinite(mean) and mean > 0):
        return None
    variation = None
    field = archive.rows(int(row["field"]), "ChebyshevBoundedField")
    if field is not None:
        order_x = int(field[0]["order_x"])
        coefficients = np.atleast_1d(np.asarray(field[0]["coefficients"], np.float64)).reshape(-1, order_x + 1)
        if coefficients.size > 1:
            variation = ChebyshevField(coefficients / mean, box)
    return PhotoCalib(mean, float(row["calibrationErr"]), variation, "archive")


def _visit_info(archive: _Archive, row: Any) -> VisitInfo | None:
    rows = archive.rows(int(row["visitInfo"]), "VisitInfo")
    if rows is None:
        return None
    info = rows[0]

    def degrees(name: str) -> float:
        return float(np.degrees(info[name]))

    return VisitInfo(
        int(row["visit"]),
        int(row["id"]),
        _UNIX_EPOCH_MJD + int(info["tai"]) / 86400e9,
        float(info["exposuretime"]),
        "".join(info["instrumentlabel"]),
        degrees("boresightradec_ra") % 360.0,
        degrees("boresightradec_dec"),
        degrees("boresightrotangle"),
        float(info["boresightairmass"]),
        longitude=degrees("longitude"),
        latitude=degrees("latitude"),
        elevation=float(info["elevation"]),
    )
