"""Template sets: versioned directories of tiles that never change once they are complete.

``ROOT/NAME/vNNN/`` holds ``tile_*.fits``, ``stars.parquet`` (the reference stars of relative calibration) and, written
last, ``manifest.json``: a version without a manifest does not exist for readers.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffim.coadd import coadd_tile
from diffim.errors import NoTemplate, NoTemplateCoverage, TemplateSetError
from diffim.template_psf import union_psf
from diffim.tiling import SkyTiling, Tile
from diffim.warp import warp_exposure
from exposure import Exposure, PhotoCalib, SkyWcs
from exposure.mask import plane_bits

__all__ = ["TemplateStore", "build_template", "merge_stars"]

HIGH_VARIANCE, HIGH_VARIANCE_MESH, HIGH_VARIANCE_FRACTION = 4.0, 32, 0.1  # of the usual; px; unmasked pixels needed
BORDER = 40  # px around the science box: more than half of the largest kernel plus that of the decorrelation


@dataclass(frozen=True)
class TemplateSet:
    """One complete version of a set."""

    name: str
    version: int
    path: Path
    manifest: dict[str, Any]

    @property
    def tiling(self) -> SkyTiling:
        """The tiling that the set was made on."""
        t = self.manifest["tiling"]
        return SkyTiling(t["pixel_scale"], t["inner"], t["border"])

    def stars(self) -> pd.DataFrame:
        """Return the reference stars: ra, dec (deg), flux (nJy), n."""
        return pd.read_parquet(self.path / "stars.parquet")


class TemplateStore:
    """Reads template sets below a directory and keeps the tiles used last in memory.

    Parameters
    ----------
    root
        Directory of the sets.
    max_tiles
        Bound of the cache (a 1152 px tile holds 16 MB).
    """

    def __init__(self, root: "str | os.PathLike[str]", max_tiles: int = 24) -> None:
        self.root = Path(root)
        self._max_tiles = max_tiles
        self._tiles: OrderedDict[Path, Exposure] = OrderedDict()

    def list(self) -> list[TemplateSet]:
        """Return every complete version of every set."""
        out = []
        for manifest in sorted(self.root.glob("*/v*/manifest.json")):
            data = json.loads(manifest.read_text(encoding="utf-8"))
            out.append(TemplateSet(data["name"], data["version"], manifest.parent, data))
        return out

    def get(self, name: str, band: str | None = None, version: int | None = None) -> TemplateSet:
        """Return the newest (or the asked) version of a set that has the band.

        Raises
        ------
        NoTemplate
            There is none; the message lists what there is.
        """
        found = [
            s for s in self.list()
            if s.name == name and (band is None or s.manifest["band"] == band) and version in (None, s.version)
        ]  # fmt: skip
        if not found:
            known = ", ".join(f"{s.name} v{s.version} ({s.manifest['band']})" for s in self.list()) or "none"
            raise NoTemplate(f"no template set {name!r} for band {band!r} in {self.root} (there are: {known})")
        return found[-1]

    def _tile(self, path: Path) -> Exposure:
        if path not in self._tiles:
            self._tiles[path] = Exposure.read_fits(path)
            while len(self._tiles) > self._max_tiles:
                self._tiles.popitem(last=False)
        self._tiles.move_to_end(path)
        return self._tiles[path]

    def fetch(self, chosen: TemplateSet, science: Exposure, border: int = BORDER) -> Exposure:
        """Return the template warped to the pixels of a science exposure, grown by `border` px, in nJy.

        Raises
        ------
        NoTemplateCoverage
            No tile of the set overlaps the image.
        """
        x0, y0, width, height = science.bbox
        box = (x0 - border, y0 - border, width + 2 * border, height + 2 * border)
        tiles = [(t, chosen.path / f"{t.name}.fits") for t in _tiles_of(chosen.tiling, science.require_wcs(), box)]
        have = [(t, p) for t, p in tiles if p.exists()]
        visit, detector = science.key
        if not have:
            raise NoTemplateCoverage(
                f"no tile of template {chosen.name} v{chosen.version} overlaps the image", visit=visit,
                detector=detector,
            )  # fmt: skip
        parts = [(t, self._tile(p)) for t, p in have]
        return _merge(science, box, parts)


def _tiles_of(tiling: SkyTiling, wcs: SkyWcs, box: tuple[int, int, int, int]) -> list[Tile]:
    """Return the tiles that a box touches, from a grid of positions at most a quarter tile apart."""
    x0, y0, width, height = box
    step = max(1, tiling.inner // 4)
    gx = np.append(np.arange(x0, x0 + width, step), x0 + width - 1)
    gy = np.append(np.arange(y0, y0 + height, step), y0 + height - 1)
    mx, my = np.meshgrid(gx, gy)
    return tiling.overlapping(*wcs.pixel_to_sky(mx.ravel(), my.ravel()))


def _merge(science: Exposure, box: tuple[int, int, int, int], parts: Sequence[tuple[Tile, Exposure]]) -> Exposure:
    """Warp every tile and average where they overlap: weights 1/sigma, variance the weighted mean (shared data)."""
    wcs = science.require_wcs()
    shape = (box[3], box[2])
    weight, image, variance = (np.zeros(shape, np.float32) for _ in range(3))
    mask = np.zeros(shape, np.int32)
    for _, tile in parts:
        part = _overlap(tile, wcs, box)
        if part is None:
            continue
        warped = warp_exposure(tile, wcs, part)
        here = (
            slice(part[1] - box[1], part[1] - box[1] + part[3]),
            slice(part[0] - box[0], part[0] - box[0] + part[2]),
        )
        good = warped.good()
        w = np.where(good, 1 / np.sqrt(np.where(good, warped.variance, 1)), 0).astype(np.float32)
        weight[here] += w
        image[here] += w * np.where(good, warped.image, 0)
        variance[here] += w * np.where(good, warped.variance, 0)
        mask[here] |= np.where(good, warped.mask, 0)
    empty = weight <= 0
    with np.errstate(invalid="ignore", divide="ignore"):
        image, variance = np.where(empty, 0, image / weight), np.where(empty, 0, variance / weight)
    mask[empty] = plane_bits(["NO_DATA"])
    _mark_high_variance(variance, mask)
    psfs = [(t.psf, t.require_wcs(), t.bbox, 1.0) for _, t in parts if t.psf is not None]
    size = max((p[0].size for p in psfs), default=31)
    psf = union_psf(psfs, wcs, box, 6, size)
    return Exposure(
        image, variance, mask, origin=(box[0], box[1]), wcs=wcs, psf=psf, photo_calib=PhotoCalib(1.0),
        visit_info=science.visit_info, band=parts[0][1].band, physical_filter=science.physical_filter,
    )  # fmt: skip


def _mark_high_variance(variance: NDArray[np.float32], mask: NDArray[np.int32]) -> None:
    """Set HIGH_VARIANCE where the variance, smoothed by a mesh of medians, is far above that of most of the template."""
    empty = (mask & np.int32(plane_bits(["NO_DATA", "BAD", "EDGE"]))) != 0
    if (~empty).mean() < HIGH_VARIANCE_FRACTION:
        return
    height, width = (max(s // HIGH_VARIANCE_MESH, 1) for s in variance.shape)
    rows, columns = (np.linspace(0, s, n + 1).astype(int) for s, n in zip(variance.shape, (height, width), strict=True))
    mesh = np.full((height, width), np.nan, np.float32)
    _block_medians(variance, ~empty, rows, columns, mesh)
    usual = float(np.nanmedian(mesh))
    high = np.nan_to_num(mesh, nan=usual) > HIGH_VARIANCE * usual
    if high.any():
        level = cv2.resize(np.nan_to_num(mesh, nan=usual), variance.shape[::-1], interpolation=cv2.INTER_LINEAR)
        mask[(level > HIGH_VARIANCE * usual) & ~empty] |= np.int32(plane_bits(["HIGH_VARIANCE"]))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _block_medians(plane: Any, usable: Any, rows: Any, columns: Any, out: Any) -> None:
    """Median of the usable values of each block between `rows` and `columns`; blocks without one stay as they are."""
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            values = np.empty((rows[r + 1] - rows[r]) * (columns[c + 1] - columns[c]), np.float32)
            n = 0
            for y in range(rows[r], rows[r + 1]):
                for x in range(columns[c], columns[c + 1]):
                    if usable[y, x]:
                        values[n] = plane[y, x]
                        n += 1
            if n:
                out[r, c] = np.median(values[:n])


def _overlap(tile: Exposure, wcs: SkyWcs, box: tuple[int, int, int, int]) -> tuple[int, int, int, int] | None:
    """Return the part of `box` that a tile reaches, from positions along the tile's edge; None where there is none."""
    x0, y0, width, height = tile.bbox
    t = np.linspace(0, 1, 9)
    ex = np.concatenate([x0 + t * width, x0 + t * width, np.full(9, x0), np.full(9, x0 + width)])
    ey = np.concatenate([np.full(9, y0), np.full(9, y0 + height), y0 + t * height, y0 + t * height])
    x, y = wcs.sky_to_pixel(*tile.require_wcs().pixel_to_sky(ex, ey))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return box  # seen from far away on the sphere: let the warp decide pixel by pixel
    low_x, high_x = max(box[0], int(x.min()) - 2), min(box[0] + box[2], int(x.max()) + 3)
    low_y, high_y = max(box[1], int(y.min()) - 2), min(box[1] + box[3], int(y.max()) + 3)
    return (low_x, low_y, high_x - low_x, high_y - low_y) if low_x < high_x and low_y < high_y else None


def build_template(
    root: "str | os.PathLike[str]",
    name: str,
    exposures: Sequence[Exposure],
    *,
    pixel_scale: float,
    tile: int = 1024,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TemplateSet:
    """Make a new version of a template set from characterised exposures of one band.

    Raises
    ------
    TemplateSetError
        No exposure, several bands, or an exposure that lacks PSF, WCS or calibration.
    """
    bands = sorted({e.band for e in exposures})
    if len(bands) != 1:
        raise TemplateSetError(f"a template set needs exposures of one band, got {bands or 'none'}")
    for e in exposures:
        if e.wcs is None or e.psf is None or e.photo_calib is None:
            raise TemplateSetError("characterise the exposures first", visit=e.key[0], detector=e.key[1])
    tiling = SkyTiling(pixel_scale, tile)
    directory, version = _new_version(Path(root) / name)
    groups = _groups(tiling, exposures)
    written = []
    for done, key in enumerate(sorted(groups), start=1):
        made = coadd_tile(tiling.tile(*key), groups[key])
        if made is not None:
            made.write_fits(directory / f"{tiling.tile(*key).name}.fits")
            written.append(tiling.tile(*key).name)
        progress(done, len(groups))
    merge_stars(exposures, pixel_scale).to_parquet(directory / "stars.parquet")
    manifest = {
        "name": name, "version": version, "band": bands[0], "unit": "nJy",
        "tiling": {"pixel_scale": pixel_scale, "inner": tile, "border": tiling.border},
        "tiles": written, "inputs": [{"visit": e.key[0], "detector": e.key[1]} for e in exposures],
    }  # fmt: skip
    partial = directory / ".manifest.part"
    partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    os.replace(partial, directory / "manifest.json")
    return TemplateSet(name, version, directory, manifest)


def _new_version(base: Path) -> tuple[Path, int]:
    base.mkdir(parents=True, exist_ok=True)
    version = max((int(p.name[1:]) for p in base.glob("v[0-9]*")), default=0) + 1
    while True:
        try:
            (base / f"v{version:03d}").mkdir()
            return base / f"v{version:03d}", version
        except FileExistsError:  # another builder took the number
            version += 1


def _groups(tiling: SkyTiling, exposures: Sequence[Exposure]) -> dict[tuple[int, int], list[Exposure]]:
    out: dict[tuple[int, int], list[Exposure]] = {}
    for exposure in exposures:
        x0, y0, width, height = exposure.bbox
        margin = tiling.border
        box = (x0 - margin, y0 - margin, width + 2 * margin, height + 2 * margin)
        for tile in _tiles_of(tiling, exposure.require_wcs(), box):
            out.setdefault((tile.ring, tile.column), []).append(exposure)
    return out


def merge_stars(exposures: Sequence[Exposure], pixel_scale: float) -> pd.DataFrame:
    """Return the isolated, unflagged stars of several exposures, one row per star: median ra, dec, flux (nJy)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    parts = []
    for e in exposures:
        if e.sources is None or e.photo_calib is None:
            continue
        s = e.sources[(e.sources.isolated & ~e.sources.flagged & (e.sources.snr > 15)).to_numpy()]
        parts.append(pd.DataFrame({"ra": s.ra, "dec": s.dec, "flux": s.psfFlux * e.photo_calib.at(s.x, s.y)}))
    if not parts or not sum(map(len, parts)):
        return pd.DataFrame({"ra": [], "dec": [], "flux": [], "n": []})
    table = pd.concat(parts, ignore_index=True)
    r, d = np.radians(table.ra), np.radians(table.dec)
    unit: NDArray[np.float64] = np.stack([np.cos(d) * np.cos(r), np.cos(d) * np.sin(r), np.sin(d)], axis=1)
    pairs = cKDTree(unit).query_pairs(np.radians(pixel_scale / 3600), output_type="ndarray")
    n = len(table)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    table["group"] = connected_components(graph, directed=False)[1]
    grouped = table.groupby("group")
    out = grouped[["ra", "dec", "flux"]].median()
    out["n"] = grouped.size()
    return out[out["n"] >= (1 if len(parts) < 3 else 2)].reset_index(drop=True)
