"""`ExposureCatalog`: one row per detector of a visit, with the objects that belong to it."""

import json
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.table import Table

from exposure.apcorr import ApCorrMap
from exposure.errors import FitsUnreadable
from exposure.field import ChebyshevField
from exposure.io import parts
from exposure.photocalib import PhotoCalib
from exposure.psf import Psf
from exposure.visitinfo import VisitInfo
from exposure.wcs.sky_wcs import SkyWcs
from tasks.arrays import F64

__all__ = ["ExposureCatalog", "ExposureRecord"]


@dataclass(frozen=True)
class ExposureRecord:
    """The objects of one detector; None where there is none."""

    wcs: SkyWcs | None = None
    psf: Psf | None = None
    photo_calib: PhotoCalib | None = None
    ap_corr: ApCorrMap | None = None
    visit_info: VisitInfo | None = None
    valid_polygon: F64 | None = None


@dataclass
class ExposureCatalog:
    """A table keyed by detector id (column ``id``) with attached objects.

    Parameters
    ----------
    table
        Plain columns; ``id`` is the detector.
    records
        Attached objects by detector id.
    """

    table: Table
    records: dict[int, ExposureRecord] = field(default_factory=dict)

    def find(self, detector: int) -> ExposureRecord | None:
        """Return the objects of one detector, None when the catalogue has no such row."""
        if detector not in set(np.asarray(self.table["id"]).tolist()):
            return None
        return self.records.get(detector, ExposureRecord())

    def write_fits(self, path: "str | PathLike[str]") -> None:
        """Write the table and, per detector, WCS, PSF, calibration and aperture corrections."""
        hdus: list[Any] = [fits.PrimaryHDU(), fits.BinTableHDU(self.table, name="TABLE")]
        for detector, record in sorted(self.records.items()):
            for hdu in _record_hdus(record):
                hdu.header["DETECTOR"] = detector
                hdus.append(hdu)
        fits.HDUList(hdus).writeto(path, overwrite=True)

    @classmethod
    def read_fits(cls, path: "str | PathLike[str]") -> "ExposureCatalog":
        """Read what `write_fits` wrote."""
        from exposure.io.native import open_fits

        with open_fits(path) as hdus:
            if "TABLE" not in hdus:
                raise FitsUnreadable(f"{Path(path).name} is no exposure catalogue: it has no TABLE extension")
            table = Table(hdus["TABLE"].data)
            grouped: dict[int, list[Any]] = {}
            for hdu in hdus[2:]:
                grouped.setdefault(int(hdu.header["DETECTOR"]), []).append(hdu)
            records = {d: _read_record(group) for d, group in grouped.items()}
        return cls(table, records)

    def write_parquet(self, path: "str | PathLike[str]") -> None:
        """Write the plain columns as Parquet, with calibrations, WCS and visit info as text (no PSF: that is FITS)."""
        frame = pd.DataFrame({c: list(self.table[c]) for c in self.table.colnames})
        records = [self.records.get(int(d), ExposureRecord()) for d in frame["id"]]
        frame["photoCalib"] = [None if r.photo_calib is None else _calib_text(r.photo_calib) for r in records]
        frame["wcs"] = [None if r.wcs is None else _wcs_text(r.wcs) for r in records]
        frame["visitInfo"] = [None if r.visit_info is None else json.dumps(asdict(r.visit_info)) for r in records]
        frame.to_parquet(path)

    @classmethod
    def read_parquet(cls, path: "str | PathLike[str]") -> "ExposureCatalog":
        """Read what `write_parquet` wrote.

        Raises
        ------
        FitsUnreadable
            The file is no such table.
        """
        frame = pd.read_parquet(path)
        if "id" not in frame or "photoCalib" not in frame:
            raise FitsUnreadable(f"{Path(path).name} is no exposure catalogue: it lacks the columns id, photoCalib")
        texts = {
            name: frame.pop(name) if name in frame else [None] * len(frame)
            for name in ("photoCalib", "wcs", "visitInfo")
        }
        records = {}
        for d, calib, wcs, info in zip(frame["id"], *texts.values(), strict=True):
            records[int(d)] = ExposureRecord(
                photo_calib=_calib_from_text(calib) if isinstance(calib, str) else None,
                wcs=_wcs_from_text(wcs) if isinstance(wcs, str) else None,
                visit_info=VisitInfo(**json.loads(info)) if isinstance(info, str) else None,
            )
        return cls(Table({c: np.array(frame[c].tolist()) for c in frame.columns}), records)


def _calib_text(calib: PhotoCalib) -> str:
    raw: dict[str, Any] = {"mean": calib.mean, "error": calib.error, "source": calib.source}
    if calib.variation is not None:
        raw |= {"chebyshev": calib.variation.coefficients.tolist(), "bbox": list(calib.variation.bbox)}
    return json.dumps(raw)


def _calib_from_text(text: str) -> PhotoCalib:
    raw = json.loads(text)
    variation = None
    if "chebyshev" in raw:
        variation = ChebyshevField(np.array(raw["chebyshev"], np.float64), tuple(raw["bbox"]))
    return PhotoCalib(raw["mean"], raw["error"], variation, raw["source"])


def _wcs_text(wcs: SkyWcs) -> str:
    from exposure.wcs.ast import AstWcs
    from exposure.wcs.mapped import ComposedWcs

    if isinstance(wcs, ComposedWcs):
        return json.dumps({"kind": "COMPOSED", **wcs.to_dict()})
    if isinstance(wcs, AstWcs):
        return json.dumps({"kind": "AST", "text": wcs.text, "bbox": list(wcs.bbox)})
    return json.dumps({"kind": "FITS", "text": wcs.to_header().tostring(sep="\n")})


def _wcs_from_text(text: str) -> SkyWcs:
    raw = json.loads(text)
    if raw["kind"] == "COMPOSED":
        from exposure.wcs.mapped import ComposedWcs

        return ComposedWcs.from_dict(raw)
    if raw["kind"] == "AST":
        from exposure.wcs.ast import AstWcs

        return AstWcs(raw["text"], tuple(raw["bbox"]))
    return SkyWcs.from_header(fits.Header.fromstring(raw["text"], sep="\n"))


def _record_hdus(record: ExposureRecord) -> list[Any]:
    out: list[Any] = []
    if record.wcs is not None:
        out.append(_wcs_hdu(record.wcs))
    if record.psf is not None:
        out.append(parts.psf_hdu(record.psf))
    if record.photo_calib is not None:
        calib = record.photo_calib
        hdu = fits.ImageHDU(None if calib.variation is None else calib.variation.coefficients, name="CALIB")
        hdu.header["CALIB"], hdu.header["CALIBSRC"] = calib.mean, calib.source
        if np.isfinite(calib.error):  # a header holds no NaN: of a very large joint fit the error is not known
            hdu.header["CALIBERR"] = calib.error
        if calib.variation is not None:
            parts._write_box(hdu.header, calib.variation.bbox)
        out.append(hdu)
    if record.visit_info is not None:
        header = fits.Header()
        parts.write_visit_cards(header, record.visit_info)
        out.append(fits.ImageHDU(header=header, name="VISITINFO"))
    if record.valid_polygon is not None:
        out.append(fits.ImageHDU(np.asarray(record.valid_polygon, np.float64), name="POLYGON"))
    return out + list(parts.ap_corr_hdus(record.ap_corr))


def _wcs_hdu(wcs: SkyWcs) -> fits.ImageHDU:
    """A WCS that a header cannot hold stands as text in the data, with its TAN-SIP approximation in the header."""
    from exposure.wcs.ast import AstWcs
    from exposure.wcs.mapped import ComposedWcs

    text = wcs.to_json() if isinstance(wcs, ComposedWcs) else wcs.text if isinstance(wcs, AstWcs) else ""
    data = np.frombuffer(text.encode("ascii"), np.uint8) if text else None
    hdu = fits.ImageHDU(data, header=wcs.to_header(), name="WCS")
    if isinstance(wcs, AstWcs):
        hdu.header["WCSKIND"] = "AST"
        parts._write_box(hdu.header, wcs.bbox)
    elif text:
        hdu.header["WCSKIND"] = "COMPOSED"
    return hdu


def _read_wcs(hdu: Any) -> SkyWcs:
    kind = hdu.header.get("WCSKIND", "")
    if not kind:
        return SkyWcs.from_header(hdu.header)
    text = np.asarray(hdu.data, np.uint8).tobytes().decode("ascii")
    if kind == "AST":
        from exposure.wcs.ast import AstWcs

        return AstWcs(text, parts._read_box(hdu.header))
    from exposure.wcs.mapped import ComposedWcs

    return ComposedWcs.from_json(text)


def _read_record(hdus: list[Any]) -> ExposureRecord:
    named = {h.name: h for h in hdus}
    calib = None
    if "CALIB" in named:
        head = named["CALIB"].header
        variation = None
        if named["CALIB"].data is not None:
            variation = ChebyshevField(np.ascontiguousarray(named["CALIB"].data, np.float64), parts._read_box(head))
        calib = PhotoCalib(float(head["CALIB"]), float(head.get("CALIBERR", np.nan)), variation, str(head["CALIBSRC"]))
    return ExposureRecord(
        wcs=_read_wcs(named["WCS"]) if "WCS" in named else None,
        psf=parts.read_psf(named["PSF"]) if "PSF" in named else None,
        photo_calib=calib,
        ap_corr=parts.read_ap_corr(fits.HDUList([h for h in hdus if h.name == "APCORR"]), (0, 0, 1, 1)),
        visit_info=parts.read_visit_info(named["VISITINFO"].header) if "VISITINFO" in named else None,
        valid_polygon=np.asarray(named["POLYGON"].data, np.float64) if "POLYGON" in named else None,
    )
