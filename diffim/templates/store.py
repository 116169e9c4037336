"""Template sets: versioned directories of tiles that never change once they are complete.

``ROOT/NAME/vNNN/`` holds ``tile_*.fits``, ``stars.parquet`` (the reference stars of relative calibration) and, written
last, ``manifest.json``: a version without a manifest does not exist for readers. Which one is used: `diffim.templates.choice`.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffim.detection.cosmic_rays import find_cosmic_rays
from diffim.errors import NoTemplate, NoTemplateCoverage, TemplateSetError
from diffim.templates.choice import chosen_version, promote, roll_back
from diffim.templates.coadd import coadd_tile
from diffim.templates.mended_stars import with_whole_stars
from diffim.templates.patches import BORDER, merge_patches
from diffim.templates.tiling import SkyTiling, Tile
from exposure import Exposure, SkyWcs
from tasks.arrays import F64, Box
from tasks.sphere import unit_vectors

__all__ = ["TemplateSet", "TemplateStore", "build_template", "merge_stars", "tiles_of", "without_cosmic_rays"]


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

    def tile_bounds(self) -> dict[str, tuple[float, float, float, float]]:
        """Return the inner area of every tile: ra from and to, dec from and to (degrees)."""
        return {name: self.tiling.bounds(*(int(n) for n in name.split("_")[1:])) for name in self.manifest["tiles"]}

    def area_sq_deg(self) -> float:
        """Return the area of the sky that the tiles cover, square degrees."""
        limits = np.array(list(self.tile_bounds().values())).reshape(-1, 4)
        heights = np.degrees(np.diff(np.sin(np.radians(limits[:, 2:])), axis=1)[:, 0])
        return float(np.sum((limits[:, 1] - limits[:, 0]) * heights))

    def covers(self, ra: float, dec: float) -> bool:
        """Whether a position (degrees) lies on a tile."""
        (tile,) = self.tiling.overlapping(np.array([ra]), np.array([dec]))
        return tile.name in self.manifest["tiles"]

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
        """Return the asked version of a set that has the band; else the one that is used, promoted or newest.

        Raises
        ------
        NoTemplate
            There is none; the message lists what there is.
        """
        matching = [
            s
            for s in self.list()
            if s.name == name and (band is None or s.manifest["band"] == band) and version in (None, s.version)
        ]
        if not matching:
            present = ", ".join(f"{s.name} v{s.version} ({s.manifest['band']})" for s in self.list()) or "none"
            raise NoTemplate(f"no template set {name!r} for band {band!r} in {self.root} (there are: {present})")
        promoted = None if version is not None else chosen_version(self.root / name, matching[-1].manifest["band"])
        return next((s for s in matching if s.version == promoted), matching[-1])

    def promote(self, name: str, version: int, by: str) -> TemplateSet:
        """Let a version be used for its band from now on, whatever newer ones come; returns it.

        Raises
        ------
        NoTemplate
            There is none.
        """
        wanted = self.get(name, version=version)
        used = self.get(name, wanted.manifest["band"])
        if used.version != version or chosen_version(self.root / name, wanted.manifest["band"]) is None:
            promote(self.root / name, wanted.manifest["band"], version, used.version, by)
        return wanted

    def roll_back(self, name: str, band: str, by: str) -> TemplateSet:
        """Let the version be used again that was used before the last promotion; returns it.

        Raises
        ------
        NoTemplate
            There is no such set, or none of its versions was promoted.
        """
        self.get(name, band)
        return self.get(name, version=roll_back(self.root / name, band, by))

    def _tile(self, path: Path) -> Exposure:
        if path not in self._tiles:
            self._tiles[path] = Exposure.read_fits(path)
            while len(self._tiles) > self._max_tiles:
                self._tiles.popitem(last=False)
        self._tiles.move_to_end(path)
        return self._tiles[path]

    def keep(self, chosen: TemplateSet, ra: F64, dec: F64) -> int:
        """Read the tiles that hold any of the positions (N,), degrees, those nearest to the first one; returns how many.

        At most half of the tiles that are kept: those of the visits before stay.
        """
        held = set(chosen.manifest["tiles"])
        tiles = [t for t in chosen.tiling.overlapping(ra, dec) if t.name in held]
        start = unit_vectors(ra[:1], dec[:1])[0]
        centres = [t.wcs.pixel_to_sky(np.array([(t.size - 1) / 2]), np.array([(t.size - 1) / 2])) for t in tiles]
        near = sorted(zip(tiles, centres, strict=True), key=lambda pair: -float(unit_vectors(*pair[1])[0] @ start))
        for tile, _ in near[: self._max_tiles // 2]:
            self._tile(chosen.path / f"{tile.name}.fits")
        return min(len(near), self._max_tiles // 2)

    def fetch(self, chosen: TemplateSet, science: Exposure, border: int = BORDER) -> Exposure:
        """Return the template warped to the pixels of a science exposure, grown by `border` px, in nJy.

        Raises
        ------
        NoTemplateCoverage
            No tile of the set overlaps the image.
        """
        x0, y0, width, height = science.bbox
        box = (x0 - border, y0 - border, width + 2 * border, height + 2 * border)
        tiles = [(t, chosen.path / f"{t.name}.fits") for t in tiles_of(chosen.tiling, science.require_wcs(), box)]
        files = [p for _, p in tiles if p.exists()]
        if not files:
            raise NoTemplateCoverage(
                f"no tile of template {chosen.name} v{chosen.version} overlaps the image",
                **science.where,
            )
        return merge_patches(science, [self._tile(p) for p in files], border)


def tiles_of(tiling: SkyTiling, wcs: SkyWcs, box: Box) -> list[Tile]:
    """Return the tiles that a box touches, from a grid of positions at most a quarter tile apart."""
    x0, y0, width, height = box
    step = max(1, tiling.inner // 4)
    gx = np.append(np.arange(x0, x0 + width, step), x0 + width - 1)
    gy = np.append(np.arange(y0, y0 + height, step), y0 + height - 1)
    mx, my = np.meshgrid(gx, gy)
    return tiling.overlapping(*wcs.pixel_to_sky(mx.ravel(), my.ravel()))


def build_template(
    root: "str | os.PathLike[str]",
    name: str,
    exposures: Sequence[Exposure],
    *,
    pixel_scale: float,
    tile: int = 1024,
    progress: Callable[[int, int], None] = lambda number, total: None,
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
            raise TemplateSetError("characterise the exposures first", **e.where)
    exposures = with_whole_stars([without_cosmic_rays(e) for e in exposures])
    tiling = SkyTiling(pixel_scale, tile)
    directory, version = _new_version(Path(root) / name)
    groups = _groups(tiling, exposures)
    written = []
    for number, key in enumerate(sorted(groups), start=1):
        coadd = coadd_tile(tiling.tile(*key), groups[key])
        if coadd is not None:
            coadd.write_fits(directory / f"{tiling.tile(*key).name}.fits")
            written.append(tiling.tile(*key).name)
        progress(number, len(groups))
    merge_stars(exposures, pixel_scale).to_parquet(directory / "stars.parquet")
    manifest = {
        "name": name,
        "version": version,
        "band": bands[0],
        "unit": "nJy",
        "tiling": {"pixel_scale": pixel_scale, "inner": tile, "border": tiling.border},
        "tiles": written,
        "inputs": [{"visit": e.key[0], "detector": e.key[1]} for e in exposures],
    }
    partial = directory / ".manifest.part"
    partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    os.replace(partial, directory / "manifest.json")
    return TemplateSet(name, version, directory, manifest)


def without_cosmic_rays(exposure: Exposure) -> Exposure:
    """Return a frame with the same pixels whose cosmic rays (and hot pixels) are ``CR``, and have no data.

    A coadd of three frames and more would find most of them; one of a single frame has nothing else to go by. Resampling leaves
    pixels without data out, so that no cosmic ray is smeared.
    """
    rays = find_cosmic_rays(
        exposure.image, exposure.variance, exposure.good("SAT", "BAD", "CR", "SUSPECT"), exposure.require_psf()
    )
    rays |= exposure.flagged("CR")
    marked = replace(exposure, mask=exposure.mask.copy())
    for plane in ("CR", "NO_DATA"):
        marked.set_plane(plane, rays)
    return marked


def _new_version(base: Path) -> tuple[Path, int]:
    """Make the folder of a new version; returns it and its number."""
    base.mkdir(parents=True, exist_ok=True)
    version = max((int(p.name[1:]) for p in base.glob("v[0-9]*")), default=0) + 1
    while True:
        try:
            (base / f"v{version:03d}").mkdir()
            return base / f"v{version:03d}", version
        except FileExistsError:  # another builder took the number
            version += 1


def _groups(tiling: SkyTiling, exposures: Sequence[Exposure]) -> dict[tuple[int, int], list[Exposure]]:
    """Return the exposures that reach each tile, by the tile's ring and column."""
    out: dict[tuple[int, int], list[Exposure]] = {}
    for exposure in exposures:
        x0, y0, width, height = exposure.bbox
        margin = tiling.border
        box = (x0 - margin, y0 - margin, width + 2 * margin, height + 2 * margin)
        for tile in tiles_of(tiling, exposure.require_wcs(), box):
            out.setdefault((tile.ring, tile.column), []).append(exposure)
    return out


def merge_stars(exposures: Sequence[Exposure], pixel_scale: float) -> pd.DataFrame:
    """Return the isolated, unflagged stars of several exposures, one row per star: median ra, dec, flux (nJy).

    Where a detector has three exposures or more, its stars are those that were seen twice.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    used = [
        (e.sources, e.photo_calib, None if e.visit_info is None else e.visit_info.detector)
        for e in exposures
        if e.sources is not None and e.photo_calib is not None
    ]
    detectors = [detector for _, _, detector in used]
    parts = []
    for sources, calib, detector in used:
        s = sources[(sources.isolated & ~sources.flagged & (sources.snr > 15)).to_numpy()]
        flux = s.psfFlux * calib.at(s.x, s.y)
        parts.append(pd.DataFrame({"ra": s.ra, "dec": s.dec, "flux": flux, "exposures": detectors.count(detector)}))
    if not parts or not sum(map(len, parts)):
        return pd.DataFrame({"ra": [], "dec": [], "flux": [], "n": []})
    table = pd.concat(parts, ignore_index=True)
    vectors = unit_vectors(table.ra, table.dec)
    pairs = cKDTree(vectors).query_pairs(np.radians(pixel_scale / 3600), output_type="ndarray")
    n = len(table)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    table["group"] = connected_components(graph, directed=False)[1]
    grouped = table.groupby("group")
    out = grouped[["ra", "dec", "flux"]].median()
    out["n"] = grouped.size()
    needed = np.where(grouped["exposures"].max() < 3, 1, 2)
    return out[out["n"] >= needed].reset_index(drop=True)
