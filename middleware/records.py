"""What a frame's header says, and the dimension records that a registry keeps of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.time import Time
from lsst.daf.butler import Registry, Timespan
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

from diffim.templates.skymap import SkyMap
from diffim.templates.tiling import Tile
from exposure import Instrument, SkyWcs, VisitInfo
from exposure.io.components import read_part
from exposure.io.opening import split_choice
from exposure.io.several import images_in
from middleware.errors import RepositoryError
from middleware.instrument import VISIT_SYSTEM
from tasks.arrays import F64, Box

__all__ = ["FrameFacts", "detector_name", "frame_facts", "read_frames", "register_sky", "register_visit"]

_DAY_S = 86_400.0
_MARGIN_PX = 0.5
_SAME_S = 1.0  # by which the clocks of detectors may differ
_SEQUENCE = 100_000  # numbers of visits within a day, of the rules that make them from the time


@dataclass(frozen=True)
class FrameFacts:
    """One frame: where it is, what it is of, and the corners (4,) of its box on the sky, degrees."""

    path: Path
    info: VisitInfo
    band: str
    physical_filter: str
    ra: F64
    dec: F64


def frame_facts(path: Path, rules: Instrument) -> FrameFacts:
    """Read what a registry keeps of a frame; no pixel is read.

    Parameters
    ----------
    path
        FITS file, maybe with the chosen extension behind it.

    Raises
    ------
    FitsUnreadable, CardInvalid, BandUnknown, WcsMissing
        The message names file and card.
    RepositoryError
        The file says that it is of another camera.
    """
    info, band = read_part(path, "visitInfo", rules), read_part(path, "band", rules)
    if info.instrument != rules.name:  # whose rules the tasks would follow
        raise RepositoryError(f"{path.name} is of the camera {info.instrument!r}, not of {rules.name!r}").at(
            info.visit, info.detector
        )
    ra, dec = _corners(read_part(path, "wcs", rules), read_part(path, "bbox", rules))
    rules.packer().catalog_id(info.visit, info.detector)
    return FrameFacts(path, info, band, read_part(path, "physicalFilter", rules) or band, ra, dec)


def read_frames(
    paths: Iterable[Path], rules: Instrument, bad_frame: Callable[[Path, Exception], None] | None
) -> dict[tuple[int, int], FrameFacts]:
    """Return the facts of frames by visit and detector; each image of a file with several is a frame.

    Parameters
    ----------
    bad_frame
        Told of a frame that cannot be used, which is left out; without it such a frame is an error.

    Raises
    ------
    RepositoryError
        Two frames of one visit and detector.
    """
    out: dict[tuple[int, int], FrameFacts] = {}
    for path in paths:
        try:
            for facts in _of_file(path, rules):
                key = (facts.info.visit, facts.info.detector)
                if key in out and out[key].path.resolve() != facts.path.resolve():
                    raise RepositoryError(f"{path.name} is of the same visit and detector as {out[key].path.name}").at(
                        *key
                    )
                out[key] = facts
        except Exception as error:  # whatever is wrong with one frame, the others are good
            if bad_frame is None or isinstance(error, MemoryError):
                raise
            bad_frame(path, error)
    return out


def _of_file(path: Path, rules: Instrument) -> list[FrameFacts]:
    file, choice = split_choice(path)
    images = [] if choice is not None else images_in(file, rules)
    return [frame_facts(p, rules) for p in ([i.of(file) for i in images] if len(images) > 1 else [path])]


def _corners(wcs: SkyWcs, box: Box) -> tuple[F64, F64]:
    x0, y0, width, height = box
    x, y = np.array([0.0, width, width, 0.0]) + x0 - _MARGIN_PX, np.array([0.0, 0.0, height, height]) + y0 - _MARGIN_PX
    return wcs.pixel_to_sky(x, y)


def detector_name(number: int) -> str:
    """Return the name of a detector that no camera file names."""
    return f"D{number:03d}"


def register_visit(registry: Registry, name: str, frames: Sequence[FrameFacts], *, replace: bool = False) -> None:
    """Enter the frames of one visit: exposure, visit, its definition, and the regions of its detectors.

    Detectors that come later are added, and the region of the visit grows; again changes nothing.

    Parameters
    ----------
    name
        Of the instrument.
    frames
        Of one visit, one for each detector; the first says what is kept of the exposure.
    replace
        What is known of the visit, and of these detectors, is replaced.

    Raises
    ------
    RepositoryError
        A frame has another filter or time than what has the number of its visit already.
    """
    visit, camera = frames[0].info.visit, {"instrument": name}
    known = next(iter(registry.queryDimensionRecords("exposure", instrument=name, exposure=visit)), None)
    first = _of_exposure(name, frames[0])
    if known is not None and not replace:  # headers of detectors differ in the last digits
        first = {key: getattr(known, key, name) for key in first}
    _check_one_exposure(frames, first)
    if known is None or replace:
        physical = {**camera, "name": frames[0].physical_filter, "band": frames[0].band}
        registry.syncDimensionData("physical_filter", physical)
        registry.syncDimensionData("day_obs", {**camera, "id": first["day_obs"]})
        registry.syncDimensionData("group", {**camera, "name": str(visit)})
        exposure = {
            "obs_id": str(visit),
            "group": str(visit),
            "observation_type": "science",
            "seq_start": visit % _SEQUENCE,
            "seq_end": visit % _SEQUENCE,
            "tracking_ra": _or_none(frames[0].info.boresight_ra),
            "tracking_dec": _or_none(frames[0].info.boresight_dec),
            "sky_angle": _or_none(frames[0].info.rotation),
            "has_simulated": False,
            "can_see_sky": True,
        }
        registry.syncDimensionData("exposure", {**first, **exposure}, update=replace)
    _register_regions(registry, name, frames, {**first, "name": str(visit)}, replace)


def _of_exposure(name: str, frame: FrameFacts) -> dict[str, Any]:
    """Return what exposure and visit have in common."""
    info = frame.info
    return {
        "instrument": name,
        "id": info.visit,
        "physical_filter": frame.physical_filter,
        "day_obs": int(Time(info.midpoint_mjd_tai, format="mjd", scale="tai").strftime("%Y%m%d")),
        "exposure_time": info.exposure_time,
        "target_name": info.target_name or None,
        "observation_reason": info.observation_reason or "science",
        "science_program": None,
        "zenith_angle": _zenith(info.airmass),
        "seq_num": info.visit % _SEQUENCE,
        "timespan": _timespan(info),
    }


def _check_one_exposure(frames: Sequence[FrameFacts], exposure: dict[str, Any]) -> None:
    span, half = exposure["timespan"], 0.5 * exposure["exposure_time"] / _DAY_S
    middle = span.begin.tai.mjd + half
    for frame in frames:
        apart = abs(frame.info.midpoint_mjd_tai - middle) - half - 0.5 * frame.info.exposure_time / _DAY_S
        if frame.physical_filter != exposure["physical_filter"] or apart * _DAY_S > _SAME_S:
            raise RepositoryError(
                f"{frame.path.name} ({frame.physical_filter}, MJD {frame.info.midpoint_mjd_tai:.5f}) is not of the exposure that has "
                f"its number ({exposure['physical_filter']}, MJD {middle:.5f}): replace it, or give the frame another number"
            ).at(frame.info.visit, frame.info.detector)


def _register_regions(
    registry: Registry, name: str, frames: Sequence[FrameFacts], visit: dict[str, Any], replace: bool
) -> None:
    camera, number = {"instrument": name}, int(visit["id"])
    by_detector = {
        r.detector: r for r in registry.queryDimensionRecords("visit_detector_region", instrument=name, visit=number)
    }
    regions = {d: r.region for d, r in by_detector.items()}
    changed = [f for f in frames if replace or f.info.detector not in by_detector]
    regions |= {f.info.detector: _polygon(f.ra, f.dec) for f in changed}
    corners = [v for region in regions.values() for v in region.getVertices()]
    registry.syncDimensionData("visit", {**visit, "region": ConvexPolygon(corners)}, update=True)
    registry.syncDimensionData("visit_definition", {**camera, "visit": number, "exposure": number})
    registry.syncDimensionData("visit_system_membership", {**camera, "visit": number, "visit_system": VISIT_SYSTEM[0]})
    named = {r.id for r in registry.queryDimensionRecords("detector", instrument=name)}
    for frame in changed:
        detector = frame.info.detector
        if detector not in named:
            row = {**camera, "id": detector, "full_name": detector_name(detector), "purpose": "SCIENCE"}
            registry.syncDimensionData("detector", row)
        row = {**camera, "visit": number, "detector": detector, "region": regions[detector]}
        registry.syncDimensionData("visit_detector_region", row, update=replace)


def _polygon(ra: F64, dec: F64) -> ConvexPolygon:
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(float(r), float(d))) for r, d in zip(ra, dec, strict=True)])


def _timespan(info: VisitInfo) -> Timespan:
    """Return when the shutter was open."""
    half = 0.5 * info.exposure_time / _DAY_S
    times = Time([info.midpoint_mjd_tai - half, info.midpoint_mjd_tai + half], format="mjd", scale="tai")
    return Timespan(times[0], times[1])


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _zenith(airmass: float) -> float | None:
    """Return the zenith angle (deg) of an airmass, 1 / cos z; None where it is not known."""
    return float(np.degrees(np.arccos(1 / airmass))) if np.isfinite(airmass) and airmass >= 1 else None


def register_sky(registry: Registry, sky: SkyMap, tiles: Sequence[Tile]) -> None:
    """Enter a sky map, and the tracts and patches of some of its tiles; again changes nothing."""
    row = {
        "name": sky.name,
        "hash": sky.digest,
        "tract_max": sky.tract_max,
        "patch_nx_max": sky.columns,
        "patch_ny_max": sky.rows,
    }
    registry.syncDimensionData("skymap", row)
    cells = [(tile, sky.place(tile)) for tile in tiles]
    for tract in sorted({p.tract for _, p in cells}):
        registry.syncDimensionData("tract", {"skymap": sky.name, "id": tract, "region": sky.tract_region(tract)})
    for tile, cell in cells:
        patch = {
            "skymap": sky.name,
            "tract": cell.tract,
            "id": sky.patch(cell),
            "cell_x": cell.column,
            "cell_y": cell.row,
            "region": sky.patch_region(tile),
        }
        registry.syncDimensionData("patch", patch)
