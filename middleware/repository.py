"""A Butler's repository for our cameras: made, and filled with frames, template sets, reference stars and a camera.

Everything may be done again: what is there already stays as it is. Files are ingested where they lie.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lsst.daf.butler import (
    Butler,
    CollectionType,
    Config,
    DataCoordinate,
    DatasetIdGenEnum,
    DatasetRef,
    DatasetType,
    FileDataset,
    Registry,
    Timespan,
)
from lsst.daf.butler.registry import ConflictingDefinitionError
from sqlalchemy.exc import SQLAlchemyError
from yaml import YAMLError

from apdb.sky.htm import htm_ids
from diffim.templates.skymap import SkyMap
from diffim.templates.store import TemplateSet
from exposure.camera import Camera
from exposure.io.opening import split_choice
from middleware.errors import RepositoryError
from middleware.formatters import FORMATTERS, FrameFormatter
from middleware.instrument import AlertprodInstrument, instrument_class
from middleware.known import leave_out_changed, same_numbers, stored_files
from middleware.records import FrameFacts, read_frames, register_sky, register_visit
from tasks.datasets import DATASETS, STARS_LEVEL
from tasks.storage_classes import STORAGE_CLASSES

__all__ = ["Ingested", "Repository"]

FRAMES = "post_isr_image"
TEMPLATE, TEMPLATE_STARS, REFERENCE = "template_coadd", "template_stars", "reference_stars"


@dataclass(frozen=True)
class Ingested:
    """What one command put into a repository: the collection, and how many datasets were new and were there."""

    collection: str
    new: int
    present: int


class Repository:
    """One repository, open for writing."""

    def __init__(self, butler: Butler) -> None:
        self.butler = butler

    @classmethod
    def create(cls, root: "str | os.PathLike[str]", *instruments: str) -> "Repository":
        """Make a repository with SQLite as its registry, where there is none, and enter cameras by the names of their files.

        Raises
        ------
        InstrumentError
            No such instrument file, or a name that a registry cannot hold; nothing is made.
        RepositoryError
            Something else is there.
        """
        kinds = [instrument_class(name) for name in instruments]
        if "://" in str(root):
            raise RepositoryError(f"{root} is no folder of this machine, which a repository with SQLite must be")
        folder = Path(root)
        if not (folder / "butler.yaml").exists():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise RepositoryError(f"{folder} is no empty folder, and no repository: name another")
            config = {"datastore": {"formatters": dict(FORMATTERS)}, "storageClasses": STORAGE_CLASSES}
            Butler.makeRepo(str(folder), config=Config(config))
        repository = cls.open(folder)
        for kind in kinds:
            kind().register(repository.butler.registry, update=True)
        return repository

    @classmethod
    def open(cls, root: "str | os.PathLike[str]") -> "Repository":
        """Open a repository.

        Raises
        ------
        RepositoryError
            There is none, it is damaged, or this user may not write to it.
        """
        try:
            return cls(Butler.from_config(str(root), writeable=True))
        except (OSError, ValueError, RuntimeError, YAMLError, SQLAlchemyError) as error:
            why = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise RepositoryError(
                f"{root} is no repository that this user can write to ({why}): 'alertprod butler create' makes one in an empty folder"
            ) from error

    @property
    def registry(self) -> Registry:
        """The registry."""
        return self.butler.registry

    def instrument(self, name: str) -> AlertprodInstrument:
        """Return a camera, which is entered where it was not.

        Raises
        ------
        RepositoryError
            Its file says something else now than when it was entered.
        """
        camera = instrument_class(name)()
        try:
            camera.register(self.registry)
        except ConflictingDefinitionError as error:
            raise RepositoryError(
                f"the instrument file {name} has changed since it was entered ({str(error).partition(chr(10))[0]}): "
                "'alertprod butler create' enters it as it is now"
            ) from error
        return camera

    def ingest_frames(
        self,
        name: str,
        paths: Iterable[Path],
        bad_frame: Callable[[Path, Exception], None] | None = None,
        *,
        replace: bool = False,
    ) -> Ingested:
        """Enter frames with their visits, and their files where they lie.

        Parameters
        ----------
        name
            Of the instrument.
        paths
            FITS files; each image of a file with several is a frame.
        bad_frame
            Told of a frame that cannot be used, which is left out; without it such a frame is an error, and none is entered.
        replace
            Take these files, and what they say, for what is known of the same visits and detectors.

        Raises
        ------
        RepositoryError
            Two frames of one visit and detector; or a frame that is known came from another file, or from one of another
            size.
        FitsUnreadable, CardInvalid, BandUnknown, WcsMissing
        """
        camera = self.instrument(name)
        facts = read_frames(paths, camera.rules, bad_frame)
        kind = self._dataset_type(FRAMES)
        run = camera.makeDefaultRawIngestRunName()
        self.registry.registerRun(run)
        refs = {key: self._frame_ref(kind, run, name, key) for key in facts}
        known = stored_files(self.butler, refs.values())
        if not replace:
            leave_out_changed(facts, {key: known.get(ref.id) for key, ref in refs.items()}, bad_frame)
        visits: dict[int, list[FrameFacts]] = {}
        for frame in facts.values():
            visits.setdefault(frame.info.visit, []).append(frame)
        files: dict[Path, list[DatasetRef]] = {}
        for _, frames in sorted(visits.items()):
            if self._registered(name, frames, bad_frame, replace):
                for f in frames:
                    ref = refs[f.info.visit, f.info.detector]
                    expanded = ref.expanded(self.registry.expandDataId(ref.dataId))
                    files.setdefault(split_choice(f.path)[0].resolve(), []).append(expanded)
        if replace:
            old = [ref for ref in refs.values() if ref.id in known]
            self.butler.pruneDatasets(old, disassociate=True, unstore=True, purge=True)
        return self._ingest(run, [FileDataset(str(path), r, formatter=FrameFormatter) for path, r in files.items()])

    def _registered(
        self,
        name: str,
        frames: list[FrameFacts],
        bad_frame: Callable[[Path, Exception], None] | None,
        replace: bool,
    ) -> bool:
        """Enter what is said of one visit; returns whether it could be."""
        try:
            with self.registry.transaction():
                register_visit(self.registry, name, frames, replace=replace)
        except RepositoryError as error:
            if bad_frame is None:
                raise
            for f in frames:
                bad_frame(f.path, error)
            return False
        return True

    def _frame_ref(self, kind: DatasetType, run: str, name: str, key: tuple[int, int]) -> DatasetRef:
        data_id = DataCoordinate.standardize(
            {"instrument": name, "exposure": key[0], "detector": key[1]}, dimensions=kind.dimensions
        )
        return DatasetRef(kind, data_id, run, id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN)

    def ingest_templates(self, chosen: TemplateSet) -> Ingested:
        """Enter one version of a template set: its tiles where they lie, and copies of its stars.

        The collection is ``templates/NAME/vNNN``; ``templates/NAME`` chains all versions, the newest first.
        """
        sky, band = SkyMap(chosen.tiling), str(chosen.manifest["band"])
        tiles = [chosen.tiling.tile(*_ring_and_column(stem)) for stem in chosen.manifest["tiles"]]
        with self.registry.transaction():
            register_sky(self.registry, sky, tiles)
        kind = self._dataset_type(TEMPLATE)
        run = f"templates/{chosen.name}/v{chosen.version:03d}"
        self.registry.registerRun(run)
        files = []
        for tile in tiles:
            cell = sky.place(tile)
            ref = self._ref(kind, run, skymap=sky.name, tract=cell.tract, patch=sky.patch(cell), band=band)
            files.append(FileDataset(str((chosen.path / f"{tile.name}.fits").resolve()), [ref]))
        ingested = self._ingest(run, files)
        stars = self._put_shards(TEMPLATE_STARS, run, chosen.stars(), band=band)
        self._chain(f"templates/{chosen.name}", run)
        return Ingested(run, ingested.new + stars.new, ingested.present + stars.present)

    def ingest_references(self, table: pd.DataFrame, label: str) -> Ingested:
        """Enter a reference catalogue of the joint fit (coord_ra, coord_dec in rad, ...) in shards, as ``refcats/LABEL``.

        Raises
        ------
        RepositoryError
            It has no positions.
        """
        if not {"coord_ra", "coord_dec"} <= set(table.columns):
            raise RepositoryError("the reference catalogue lacks coord_ra and coord_dec (rad)")
        degrees = {"ra": table.coord_ra * 180 / 3.141592653589793, "dec": table.coord_dec * 180 / 3.141592653589793}
        run = f"refcats/{label}"
        self.registry.registerRun(run)
        ingested = self._put_shards(REFERENCE, run, table, pd.DataFrame(degrees))
        self._chain("refcats", run)
        return ingested

    def put_camera(self, name: str, camera: Camera) -> Ingested:
        """Enter a camera: the names of its detectors, and its geometry as a calibration without end."""
        instrument = self.instrument(name)
        run, calibrations = instrument.makeUnboundedCalibrationRunName(), instrument.makeCalibrationCollectionName()
        for d in camera.detectors.values():
            row = {"instrument": name, "id": d.id, "full_name": d.name, "purpose": "SCIENCE"}
            self.registry.syncDimensionData("detector", row, update=True)
        kind = self._dataset_type("camera")
        self.registry.registerRun(run)
        self.registry.registerCollection(calibrations, CollectionType.CALIBRATION)
        stored = self.butler.find_dataset(kind, {"instrument": name}, collections=[run])
        if stored is not None:
            if repr(self.butler.get(stored)) == repr(camera):  # numbers that nobody knows are NaN, which equal none
                return Ingested(calibrations, 0, 1)
            self.registry.decertify(calibrations, kind, Timespan(None, None))
            self.butler.pruneDatasets([stored], disassociate=True, unstore=True, purge=True)
        ref = self.butler.put(camera, kind, {"instrument": name}, run=run)
        self.registry.certify(calibrations, [ref], Timespan(None, None))
        return Ingested(calibrations, 1, 0)

    def _put_shards(
        self, name: str, run: str, table: pd.DataFrame, places: pd.DataFrame | None = None, **data_id: Any
    ) -> Ingested:
        """Put a table of stars in one dataset for each pixel of the sky; `places` has ra, dec (deg) of its rows."""
        kind = self._dataset_type(name)
        where = table if places is None else places
        pixels = htm_ids(where.ra.to_numpy(float), where.dec.to_numpy(float), STARS_LEVEL)
        new = present = 0
        for pixel in sorted(set(pixels.tolist())):
            whole = {f"htm{STARS_LEVEL}": pixel, **data_id}
            shard = table[pixels == pixel].reset_index(drop=True)
            there = self.butler.find_dataset(kind, whole, collections=[run])
            if there is None:
                self.butler.put(shard, kind, whole, run=run)
                new += 1
                continue
            if not same_numbers(self.butler.get(there), shard):
                raise RepositoryError(
                    f"{run} holds other stars there (HTM pixel {pixel}): enter them under another name"
                )
            present += 1
        return Ingested(run, new, present)

    def _dataset_type(self, name: str) -> DatasetType:
        """Return what `tasks.datasets` says of a dataset; it is registered where it was not."""
        dataset = DATASETS[name]
        kind = DatasetType(
            name,
            dataset.dimensions,
            dataset.storage,
            universe=self.butler.dimensions,
            isCalibration=dataset.is_calibration,
        )
        self.registry.registerDatasetType(kind)
        return kind

    def _ref(self, kind: DatasetType, run: str, **data_id: Any) -> DatasetRef:
        """Return a reference that is the same whenever it is made."""
        coordinate = DataCoordinate.standardize(data_id, dimensions=kind.dimensions)
        return DatasetRef(
            kind, self.registry.expandDataId(coordinate), run, id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN
        )

    def _ingest(self, run: str, files: list[FileDataset]) -> Ingested:
        total = sum(len(f.refs) for f in files)
        there = self.butler._exists_many([r for f in files for r in f.refs], full_check=False)
        present = sum(bool(state) for state in there.values())
        wanted = [f for f in files if not all(there[r] for r in f.refs)]
        if wanted:
            self.butler.ingest(*wanted, transfer="direct", skip_existing=True)
        return Ingested(run, total - present, present)

    def _chain(self, name: str, run: str) -> None:
        """Put a collection at the head of a chain, which is made where there is none."""
        self.registry.registerCollection(name, CollectionType.CHAINED)
        children = self.registry.getCollectionChain(name)
        if run not in children:
            self.butler.collections.prepend_chain(name, [run])


def _ring_and_column(stem: str) -> tuple[int, int]:
    _, ring, column = stem.split("_")
    return int(ring), int(column)
