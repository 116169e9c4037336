"""Hashes of what fixed inputs become: ``python -m benchmarks.fingerprints [--json FILE] [--compare FILE] [SECTION ...]``.

Every input is made from a fixed seed and goes through published names only, so that the same file runs on an older
tree of the package. One line per item: its name and the first 16 digits of the sha256 of its bytes. ``--json`` writes
the hashes to a file; ``--compare`` reads such a file, names every item that differs, is new or is missing, and then
exits with 1. Sections can be run alone; without any, all run.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from exposure import (
    ApCorrMap,
    ChebyshevField,
    Exposure,
    ExposureCatalog,
    GaussianPsf,
    Instrument,
    PhotoCalib,
    Psf,
    SkyWcs,
    VisitInfo,
)
from tasks import IdFactory, IdGenerator, IdPacker, make_task

__all__ = ["SECTIONS", "Fingerprints", "compare", "main"]

SIDE = 320  # px
ARCSEC = 1 / 3600
MJD = 61000.0
# parts of the keys of numbers that no two runs share
CLOCK = (
    "seconds", "duration", "time", "version", "peak", "memory", "wall_s", "startutc", "endutc", "contextswitches",
    "blockinputs", "blockoutputs", "pagefaults", "residentset",
)  # fmt: skip
VOLATILE_CARDS = ("DATE", "CHECKSUM", "DATASUM", "VERSION", "SOFTWARE", "CREATOR", "ORIGIN", "PROGRAM")


class Fingerprints:
    """Hashes by name; values of any kind that the package returns are taken apart into arrays."""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}

    def add(self, name: str, value: Any) -> None:
        """Hash a value under a name; tables and exposures give one item per column or plane."""
        parts = _parts(value)
        if parts is None:
            self.hashes[name] = hashlib.sha256(_content(value)).hexdigest()[:16]
            return
        for key, part in parts.items():
            self.add(f"{name}.{key}", part)


def _parts(value: Any) -> Mapping[str, Any] | None:
    """Return the named parts of a container, None where the value is hashed as one."""
    if isinstance(value, pd.DataFrame):
        return {"columns": list(map(str, value.columns))} | {str(c): value[c].to_numpy() for c in value.columns}
    if isinstance(value, Table):
        return {"columns": list(value.colnames)} | {c: np.asarray(value[c]) for c in value.colnames}
    if isinstance(value, Exposure):
        return _exposure_parts(value)
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items() if not any(word in str(k).lower() for word in CLOCK)}
    return None


def _exposure_parts(e: Exposure) -> dict[str, Any]:
    x0, y0, width, height = e.bbox
    x, y = (g.ravel() for g in np.meshgrid(x0 + width * np.array([0.2, 0.5, 0.8]), y0 + height * np.array([0.3, 0.7])))
    parts: dict[str, Any] = {"image": e.image, "variance": e.variance, "mask": e.mask, "bbox": list(e.bbox)}
    if e.psf is not None:
        parts["psf"] = psf_stamps(e.psf, x, y)
    if e.wcs is not None:
        parts["wcs"] = np.array(e.wcs.pixel_to_sky(x, y))
    if e.photo_calib is not None:
        parts["photoCalib"] = e.photo_calib.at(x, y)
    return parts


def psf_stamps(psf: Psf, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[Any]:
    """Return the PSF's images at some positions, with zeros where it is not defined."""
    out = []
    for px, py in zip(x, y, strict=True):
        try:
            out.append(np.asarray(psf.image_at([px], [py])[0]))
        except Exception as error:
            out.append(np.full((1, 1), float(len(type(error).__name__))))
    return np.concatenate([np.append(stamp.shape, stamp.ravel()) for stamp in out])


def _content(value: Any) -> bytes:
    """Return bytes that are equal where values, types and shapes are; every NaN is the same."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, float | int | str | bool | np.generic) or value is None:
        number = value.item() if isinstance(value, np.generic) else value
        return repr(math.nan if isinstance(number, float) and math.isnan(number) else number).encode()
    if isinstance(value, list | tuple):
        return b"[" + b",".join(_content(v) for v in value) + b"]"
    array = np.asarray(value)
    if array.dtype.kind not in "biufcSU":
        return b"objects" + _content(["" if v is pd.NA else v for v in array.ravel().tolist()])
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()


def moved(name: str, *modules: str) -> Any:
    """Return a name from the first of some modules that this tree has: its home may differ between trees."""
    for module in modules:
        room, *parts = module.split(".")
        home = Path(str(import_module(room).__file__)).parent
        if home.joinpath(*parts).with_suffix(".py").exists():
            return getattr(import_module(module), name)
    raise ModuleNotFoundError(f"{name} is in none of {modules}")


def check_one_tree() -> None:
    """Raise where modules of two trees were loaded: an installed tree must not stand in for what this one lacks."""
    root = Path(str(import_module("exposure").__file__)).parents[1]
    rooms = {p.parent.name for p in root.glob("*/__init__.py")}
    files = (getattr(m, "__file__", None) for n, m in list(sys.modules.items()) if n.split(".")[0] in rooms)
    strange = sorted(f for f in files if f is not None and not Path(f).is_relative_to(root))
    if strange:
        raise ImportError(f"this tree is {root}; from another: {', '.join(strange)}")


# ---- inputs ------------------------------------------------------------------------------------------------------


def tan(x: float, y: float, ra: float = 150.0, dec: float = 2.0, angle: float = 0.0, scale: float = 0.2) -> SkyWcs:
    """Return a TAN WCS with its reference (ra, dec) at the pixel (x, y); scale in arcsec per px."""
    c, s = (scale * ARCSEC * f(np.radians(angle)) for f in (np.cos, np.sin))
    return SkyWcs.tan((x, y), (ra, dec), np.array([[-c, s], [s, c]]))


def stars(
    seed: int, n: int, faint: float = 3.0, bright: float = 5.0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return x, y (px of a square of `SIDE`) and fluxes, log-uniform."""
    rng = np.random.default_rng(seed)
    return rng.uniform(6, SIDE - 6, n), rng.uniform(6, SIDE - 6, n), 10 ** rng.uniform(faint, bright, n)


def pixels(x: Any, y: Any, flux: Any, sigma: float, shape: tuple[int, int], sky: float = 0.0) -> NDArray[np.float64]:
    """Return Gaussian stars on a flat sky, without noise."""
    gy, gx = np.arange(shape[0]), np.arange(shape[1])
    norm = np.sqrt(2 * np.pi) * sigma
    ex = np.exp(-0.5 * ((gx - np.asarray(x)[:, None]) / sigma) ** 2) / norm
    ey = np.exp(-0.5 * ((gy - np.asarray(y)[:, None]) / sigma) ** 2) / norm
    return np.asarray(np.einsum("n,nj,ni->ji", flux, ey, ex) + sky)


def image(sigma: float, seed: int, pad: int = 0, changed: bool = False, noise: float = 6.0) -> Exposure:
    """Return a calibrated image of fixed stars; a changed one has transients, a dipole, a trail, rays and bad pixels."""
    x, y, flux = stars(5, 110)
    if changed:
        tx, ty, tflux = stars(6, 14, 2.8, 4.0)
        x, y, flux = np.append(x, tx), np.append(y, ty), np.append(flux, tflux)
        x[3] += 0.7  # a dipole
        along = np.linspace(0, 22, 40)
        x, y = np.append(x, 60 + along), np.append(y, 250 + 0.4 * along)
        flux = np.append(flux, np.full(along.size, 150.0))
    side = SIDE + 2 * pad
    light = pixels(x + pad, y + pad, flux, sigma, (side, side))
    variance = light + noise**2
    rng = np.random.default_rng(seed)
    values = light + rng.normal(size=light.shape) * np.sqrt(variance)
    mask = np.zeros(light.shape, np.int32)
    if changed:
        for cx, cy in rng.integers(10, SIDE - 10, (15, 2)):
            values[cy + pad, cx + pad : cx + pad + 3] += 900.0
        values[100 + pad : 140 + pad, 200 + pad] = np.nan
        mask[100 + pad : 140 + pad, 200 + pad] = 1  # BAD
    return Exposure(
        values.astype(np.float32), variance.astype(np.float32), mask, (-pad, -pad), tan(160.0, 150.0),
        GaussianPsf(sigma, 41, (160.0, 160.0)), PhotoCalib(1.3), VisitInfo(71, 3, MJD, 30.0, "fixed"), "r",
    )  # fmt: skip


def star_table() -> pd.DataFrame:
    """Return the sources of the image for the kernel."""
    x, y, flux = stars(5, 110)
    table = pd.DataFrame({"x": x, "y": y, "psfFlux": flux, "snr": flux / 60.0})
    table["star"], table["isolated"], table["flagged"] = True, True, False
    return table.sort_values("psfFlux", ascending=False, ignore_index=True)


# ---- sections ----------------------------------------------------------------------------------------------------


def difference(out: Fingerprints, **config: Any) -> Any:
    """Differences of one pair: the template convolved, the image convolved, ZOGY; with detection and measurement."""
    from diffim import ImageDifferenceTask

    cases: dict[str, tuple[float, float, dict[str, Any]]] = {
        "template": (2.2, 1.8, {"mode": "convolveTemplate"}),
        "science": (1.7, 2.1, {"mode": "convolveScience"}),
        "auto": (1.9, 1.9, {"mode": "auto", "doWriteScore": True, "doSpatialMetrics": True}),
        "zogy": (2.0, 1.9, {"subtractAlgorithm": "ZOGY", "doDecorrelation": False}),
    }
    for case, (sigma, template_sigma, values) in cases.items():
        new, old = image(sigma, 1, changed=True), image(template_sigma, 2, pad=40, noise=3.0)
        task = make_task(ImageDifferenceTask, values | config)
        result = task.run(new, star_table(), old, idFactory=IdGenerator(IdPacker(1 << 20, 64), 71, 3))
        name = f"difference.{case}"
        out.add(f"{name}.exposure", result.subtractedExposure)
        out.add(f"{name}.science", new)
        out.add(f"{name}.matched", result.matchedExposure)
        out.add(f"{name}.score", result.scoreExposure)
        out.add(f"{name}.diaSources", result.diaSources)
        out.add(f"{name}.spatialMetrics", result.spatiallySampledMetrics)
        out.add(f"{name}.metadata", _numbers(task.metadata))
        kernel = getattr(result.subtractRes, "kernel", None)
        if kernel is not None and hasattr(kernel, "coefficients"):
            out.add(f"{name}.kernel", {"coefficients": kernel.coefficients, "background": kernel.background})
        if case == "template":
            again = task.runWithKernel(image(sigma, 1, changed=True), old, result.subtractRes, star_table())
            out.add(f"{name}.again", again.subtractedExposure.image)
            kept = result
    return kept


def _numbers(metadata: Any) -> dict[str, Any]:
    """Return the numbers and texts of a task's metadata, without times."""
    values = metadata.to_dict() if hasattr(metadata, "to_dict") else dict(metadata)
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{k}": v for k, v in value.items()}
        else:
            flat[key] = value
    return dict(sorted(flat.items()))


RULES = Instrument(name="made", pixel_scale=0.4, variance="empirical", zeropoint_value={"constant": 31.4})


def plain(seed: int, sigma: float, changed: bool = False, n: int = 130) -> Exposure:
    """Return an image without variance, PSF, calibration and sources, on a sloping sky."""
    x, y, flux = stars(15, n, 3.2, 5.2)
    if changed:
        tx, ty, tflux = stars(16, 8, 3.4, 4.4)
        x, y, flux = np.append(x, tx), np.append(y, ty), np.append(flux, tflux)
    light = pixels(x, y, flux, sigma, (SIDE, SIDE), 400.0) + 0.05 * np.arange(SIDE)
    noisy = light + np.random.default_rng(seed).normal(size=light.shape) * np.sqrt(light)
    return Exposure(
        noisy.astype(np.float32), np.full(light.shape, np.nan, np.float32), np.zeros(light.shape, np.int32), (0, 0),
        tan(160.0, 160.0, scale=0.4), None, PhotoCalib(1.0), VisitInfo(90 + seed, 3, MJD + seed, 30.0, "fixed"), "r",
    )  # fmt: skip


def characterization(out: Fingerprints) -> None:
    """What a plain image lacks: variance, sky, sources, PSF; also with smoothing of an undersampled one."""
    from calibration.characterize import characterize

    smoothed = RULES.model_copy(update={"characterize": RULES.characterize.model_copy(update={"smoothing": 0.8})})
    for case, sigma, rules in (("plain", 1.9, RULES), ("undersampled", 0.8, smoothed)):
        result = characterize(plain(21, sigma), rules)
        out.add(f"characterize.{case}.exposure", result.exposure)
        out.add(f"characterize.{case}.sources", result.sources)
        out.add(f"characterize.{case}.report", result.report)


def templates(out: Fingerprints) -> None:
    """A coadd of characterised frames, the template of an image out of its tiles, and one out of patches."""
    from calibration.characterize import characterize
    from diffim import TemplateStore, build_template

    merge_patches = moved("merge_patches", "diffim.templates.patches", "diffim.patches")
    frames = [characterize(plain(seed, sigma), RULES).exposure for seed, sigma in ((31, 1.8), (32, 2.0), (33, 1.9))]
    science = image(2.0, 1)
    science.wcs = tan(161.3, 158.8, angle=20.0, scale=0.4)
    with tempfile.TemporaryDirectory() as folder:
        chosen = build_template(folder, "t", frames, pixel_scale=0.4, tile=256)
        for path in sorted(chosen.path.glob("*.fits")):
            with fits.open(path) as hdus:
                for k, hdu in enumerate(hdus):
                    if isinstance(hdu, fits.ImageHDU | fits.CompImageHDU):
                        out.add(f"template.{path.stem}.{k}", np.asarray(hdu.data))
        out.add("template.stars", pd.read_parquet(chosen.path / "stars.parquet"))
        out.add("template.fetched", TemplateStore(folder).fetch(chosen, science))
    patches = []
    for k in range(4):
        patch = image(1.8, 40 + k)
        corner = (260 * (k % 2) - 280, 260 * (k // 2) - 280)
        patch.origin, patch.wcs = corner, tan(0.0, 0.0, angle=4.0, scale=0.21)
        patches.append(patch)
    science.wcs = tan(160.0, 160.0)
    out.add("patches.merged", merge_patches(science, patches))


def forced(out: Fingerprints, e: Exposure | None = None) -> None:
    """Forced photometry of positions, with every plug-in that can be switched on."""
    from forced import ForcedPhotCcdFromDataFrameTask

    rng = np.random.default_rng(8)
    e = e or image(2.0, 1, changed=True)
    x, y = rng.uniform(-3, SIDE + 3, (2, 150))
    ra, dec = e.require_wcs().pixel_to_sky(x, y)
    objects = pd.DataFrame({"diaObjectId": np.arange(1, 151), "ra": ra, "dec": dec})
    for case, config in (("default", {}), ("correlated", {"doCorrelatedNoise": True})):
        task = make_task(ForcedPhotCcdFromDataFrameTask, config)
        reference = task.df2RefCat([objects], e.bbox, e.require_wcs())
        catalog = task.generateMeasCat(IdFactory(7, 20), e, reference)[0]
        out.add(f"forced.{case}", task.run(task.attachFootprints(catalog, reference, e), e, reference).measCat)


def sources(out: Fingerprints) -> pd.DataFrame:
    """The DiaSource rows of a difference, and the alerts of them."""
    from association import filter_new_sources, standardize

    made = Fingerprints()
    result = difference(made)
    rows = standardize(result.diaSources, result.subtractedExposure, MJD)
    out.add("standardize", rows)
    split = filter_new_sources(rows)
    out.add("newSources", {"good": split.good, "marginal": split.marginal})
    return rows


def _random_rows(table: str, n: int, seed: int) -> pd.DataFrame:
    """Return rows of a table of the APDB whose columns are random."""
    from apdb import columns_of

    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {}
    for c in columns_of(table):
        kind = c.dtype.kind
        values[c.name] = (
            rng.normal(100, 20, n).astype(c.dtype) if kind == "f" else rng.integers(1, 50, n).astype(c.dtype)
            if kind in "iu" else rng.uniform(size=n) < 0.3 if kind == "b" else np.full(n, "r", object)
        )  # fmt: skip
    return pd.DataFrame(values)


def association(out: Fingerprints) -> None:
    """Matching, the statistics of objects, matching with bodies of the solar system."""
    from association import associate, match_solar_system, pair_scores, summarize

    rng = np.random.default_rng(3)
    n, m, rows = 300, 400, 6000
    ra, dec = 40 + rng.uniform(0, 0.02, m), rng.uniform(0, 0.02, m)
    errors = {"raErr": 0.1 * ARCSEC, "decErr": 0.1 * ARCSEC}
    objects = pd.DataFrame({"diaObjectId": np.arange(1, m + 1), "ra": ra, "dec": dec} | errors)
    seen = rng.choice(m, n, replace=False)
    found = pd.DataFrame({
        "diaSourceId": np.arange(1000, 1000 + n), "diaObjectId": np.zeros(n, np.int64),
        "ra": ra[seen] + rng.normal(0, 0.3 * ARCSEC, n), "dec": dec[seen] + rng.normal(0, 0.3 * ARCSEC, n),
    } | errors)  # fmt: skip
    result = associate(found, objects)
    out.add("associate", result.diaSources)
    out.add("associate.counts", [result.nUpdatedDiaObjects, result.nUnassociatedDiaObjects])
    pairs = pair_scores(found, objects)
    out.add("associate.pairs", {"score": pairs.score, "separation": pairs.separation})
    flux, err = rng.normal(500, 80, rows), rng.uniform(30, 60, rows)
    flux[::97] = np.nan
    history = pd.DataFrame({
        "diaObjectId": rng.integers(1, m + 1, rows), "diaSourceId": np.arange(rows),
        "midpointMjdTai": rng.uniform(MJD, MJD + 300, rows), "band": rng.choice(list("ugrizy"), rows),
        "ra": rng.normal(40, ARCSEC, rows), "dec": rng.normal(5, ARCSEC, rows), "raErr": 1e-5, "decErr": 1e-5,
        "ra_dec_Cov": 0.0, "psfFlux": flux, "psfFluxErr": err, "scienceFlux": flux + 100, "scienceFluxErr": err,
    })  # fmt: skip
    empty = {"ra": 40.0, "dec": 5.0, "raErr": 1e-5, "decErr": 1e-5, "ra_dec_Cov": 0.0, "nDiaSources": 0,
             "firstDiaSourceMjdTai": np.nan, "lastDiaSourceMjdTai": np.nan}  # fmt: skip
    known = pd.DataFrame({"diaObjectId": np.arange(1, m + 1)} | empty)
    for plugins in ("default", "all"):
        out.add(f"summarize.{plugins}", summarize(known, history, plugins=plugins))
    along = np.arange(40.0)[:, None]
    bodies = pd.DataFrame({
        "ssObjectId": np.arange(1, 41), "designation": [f"2026 A{k}" for k in range(40)], "ephVmag": 20.0,
        "ephRa": found.ra[:40] + 0.2 * ARCSEC, "ephDec": found.dec[:40],
    })  # fmt: skip
    for name, vector in (
        ("helio_", [1.9, 1.6, 0.1]),
        ("topo_", [1.1, 0.92, 0.02]),
        ("helio_v", [-0.008, 0.009, 0.001]),
        ("topo_v", [-0.006, 0.002, 0.0011]),
    ):
        bodies[[f"{name}{axis}" for axis in "xyz"]] = np.array(vector) * (1 + 0.001 * along)
    out.add("solarSystem", match_solar_system(found, bodies).associatedSsSources)


def alerts(out: Fingerprints) -> None:
    """The bytes of alert packets with cutouts and histories."""
    from alerts import AlertInputs, build_alerts, build_packets, encode

    e = image(2.0, 1, changed=True)
    rows = _random_rows("DiaSource", 6, 1).assign(
        diaSourceId=np.arange(11, 17), diaObjectId=[1, 2, 3, 0, 4, 5], ssObjectId=[0, 0, 0, 77, 0, 0],
        x=[30.2, 160.0, 318.9, 100.5, 2.0, 250.25], y=[40.7, 160.5, 5.1, 200.0, 300.0, 120.75],
        bboxSize=[20, 40, 60, 200, 30, 30],
    )  # fmt: skip
    rows.loc[0, "trailFlux"] = np.nan
    objects = _random_rows("DiaObject", 5, 2).assign(diaObjectId=np.arange(1, 6))
    history = _random_rows("DiaSource", 9, 3).assign(diaObjectId=np.arange(9) % 5 + 1, diaSourceId=np.arange(50, 59))
    past = _random_rows("DiaForcedSource", 9, 4).assign(diaObjectId=np.arange(9) % 5 + 1)
    here = _random_rows("DiaForcedSource", 5, 5).assign(diaObjectId=np.arange(1, 6), visit=71)
    solar = _random_rows("SSSource", 1, 6).assign(diaSourceId=14)
    inputs = AlertInputs(rows, objects, history, past, here, solar, e, e, e)
    for k, alert in enumerate(build_alerts(inputs)):
        out.add(f"alerts.{k}", bytes(alert.body))
    out.add("alerts.wire", b"".join(encode(packet) for packet in build_packets(inputs)))


def pipeline(out: Fingerprints) -> None:
    """Three visits of `DiaPipelineTask` against PostgreSQL: what is returned and what is stored."""
    from apdb import Database
    from association import DiaPipelineTask

    server = moved("EmbeddedPostgres", "apdb.operate.embedded", "apdb.embedded")
    migrate = moved("migrate", "migrations.run", "service.migrate")
    all_rows = moved("all_rows", "apdb.operate.export", "apdb.export")
    latest = moved("latest_objects", "apdb.operate.export", "apdb.export")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with server(Path(folder) / "postgres") as running:
            migrate(running.uri)
            database = Database(running.uri)
            for visit, band in ((1, "g"), (2, "r"), (3, "g")):
                e = _visit(visit, band)
                task = make_task(DiaPipelineTask, {"apdb_config_url": running.uri})
                result = task.run(_detections(e), e, e, e, 50, processedMjdTai=MJD + 50 + visit)
                for name in ("associatedDiaSources", "diaForcedSources", "updatedDiaObjects"):
                    out.add(f"pipeline.{visit}.{name}", getattr(result, name))
                out.add(f"pipeline.{visit}.metadata", _numbers(task.metadata))
            out.add("apdb.DiaSource", all_rows(database, "DiaSource"))
            out.add("apdb.DiaForcedSource", all_rows(database, "DiaForcedSource"))
            out.add("apdb.DiaObject", latest(database))


def _visit(visit: int, band: str) -> Exposure:
    values = np.random.default_rng(visit).normal(0, 3, (200, 200)).astype(np.float32)
    return Exposure(
        values, np.full_like(values, 9), np.zeros(values.shape, np.int32), (0, 0), tan(100.0, 100.0, 30.0, -20.0),
        GaussianPsf(1.8, 21), PhotoCalib(1.0), VisitInfo(visit, 3, MJD + visit, 30.0, "fixed"), band,
    )  # fmt: skip


def _detections(e: Exposure) -> pd.DataFrame:
    """Return DiaSource rows of a visit: a grid of objects that scatter a little."""
    from apdb import columns_of

    visit, detector = e.key
    rng = np.random.default_rng(100 + visit)
    x, y = (g.ravel()[: 20 + visit] for g in np.meshgrid(np.arange(20.0, 181, 40), np.arange(20.0, 181, 40)))
    n = x.size
    values = {}
    for c in columns_of("DiaSource"):
        empty = {"f": np.nan if c.nullable else 0.0, "b": False, "O": e.band}.get(c.dtype.kind, 0)
        values[c.name] = np.full(n, empty).astype(c.dtype)
    ra, dec = e.require_wcs().pixel_to_sky(x, y)
    flux = rng.normal(500, 50, n).astype(np.float32)
    return pd.DataFrame(values).assign(
        diaSourceId=IdPacker(1 << 20, 64).ids(visit, detector, n), visit=np.int64(visit), detector=np.int16(detector),
        ra=ra + rng.normal(0, 0.05 * ARCSEC, n), dec=dec + rng.normal(0, 0.05 * ARCSEC, n), x=x, y=y,
        raErr=0.1 * ARCSEC, decErr=0.1 * ARCSEC, ra_dec_Cov=0.0, psfFlux=flux, psfFluxErr=25.0, apFlux=flux,
        apFluxErr=25.0, scienceFlux=flux + 90, scienceFluxErr=25.0, trailLength=0.1, reliability=0.9, band=e.band,
        midpointMjdTai=MJD + visit, timeProcessedMjdTai=MJD + 50 + visit, bboxSize=20,
    )  # fmt: skip


def _record(**values: Any) -> Any:
    return moved("ExposureRecord", "exposure.io.exposure_catalog", "exposure.catalog")(**values)


def joint(out: Fingerprints) -> None:
    """A joint fit of astrometry and photometry of a small mosaic: stars, WCS, zero points, metrics."""
    from calibration import JointcalTask
    from calibration.joint.config import JointcalConfig
    from simulation.focal_plane import simulate_mosaic

    for case, values in (
        ("constrained", {}),
        ("simple", {"astrometryModel": "simple", "photometryModel": "simpleFlux"}),
    ):
        s = simulate_mosaic(1, 3, 3 if case == "constrained" else 2)
        rows: dict[int, list[dict[str, Any]]] = {}
        records: dict[int, dict[int, Any]] = {}
        for (v, d), h in s.headers.items():
            size = {"bbox_max_x": h["IMAGEW"] - 1, "bbox_max_y": h["IMAGEH"] - 1}
            rows.setdefault(v, []).append(
                {"id": d, "visit": v, "physical_filter": "HSC-Z", "band": "z", "bbox_min_x": 0, "bbox_min_y": 0} | size
            )
            info = VisitInfo(v, d, h["MJD-OBS"], 0.0, boresight_ra=h["RABORE"], boresight_dec=h["DECBORE"], airmass=1.2)
            records.setdefault(v, {})[d] = _record(
                wcs=SkyWcs.from_header(h), photo_calib=PhotoCalib(h["CALMEAN"]), visit_info=info
            )
        config = JointcalConfig()
        for name, value in values.items():
            setattr(config, name, value)
        config.validate()
        task = JointcalTask(config=config, astrometry_refs=s.references, photometry_refs=s.references)
        result = task.run(s.sources, [ExposureCatalog(Table(rows=rows[v]), records[v]) for v in rows], s.camera)
        out.add(f"joint.{case}.stars", result.stars)
        out.add(f"joint.{case}.metrics", dict(sorted(result.metrics.items())))
        x, y = (g.ravel() for g in np.meshgrid(np.linspace(50, 2000, 4), np.linspace(50, 4100, 4)))
        for key, wcs in sorted(result.outputWcs.items()):
            out.add(f"joint.{case}.wcs.{key[0]}.{key[1]}", np.array(wcs.pixel_to_sky(x, y)))
        for key, calib in sorted(result.outputPhotoCalib.items()):
            out.add(f"joint.{case}.photoCalib.{key[0]}.{key[1]}", calib.at(x, y))


def summary(out: Fingerprints) -> None:
    """The rows of a visit summary with PSF, aperture correction and WCS replaced."""
    from calibration import UpdateVisitSummaryTask
    from exposure.camera import Camera, CameraDetector

    box = (0, 0, 100, 100)
    camera = Camera(
        "test", {d: CameraDetector(d, str(d), box, (0.01, 0.01), (2.0 * d, 0.0), 0.0, 1.0, 5.0) for d in (0, 1)}
    )
    info = VisitInfo(7, 0, 59234.7083333334, 10.0, longitude=-70.7366, latitude=-30.2407, elevation=2650.0)
    correction = ApCorrMap({"base_PsfFlux_instFlux": ChebyshevField(np.array([[1.0, 0.02]]), box)})

    def catalogue(sigma: float, shift: float) -> ExposureCatalog:
        n = 2
        table = Table({
            "id": np.arange(n), "visit": np.full(n, 7), "band": ["i"] * n, "bbox_min_x": [0] * n, "bbox_min_y": [0] * n,
            "bbox_max_x": [99] * n, "bbox_max_y": [99] * n, "expTime": [10.0] * n, "astromOffsetMean": [0.01] * n,
        })  # fmt: skip
        record = _record(
            wcs=tan(49.5 + shift, 49.5, 300.0, 0.0), psf=GaussianPsf(sigma, 25), photo_calib=PhotoCalib(0.3),
            ap_corr=correction, visit_info=info,
        )  # fmt: skip
        return ExposureCatalog(table, dict.fromkeys(range(n), record))

    exposures = {}
    for d in (0, 1):
        values = np.random.default_rng(d).normal(100, 10, (100, 100)).astype(np.float32)
        exposures[d] = Exposure(values, np.full_like(values, 100), np.zeros(values.shape, np.int32), band="i")
        exposures[d].metadata |= {"gain": 1.0, "readNoise": 5.0}
    rng = np.random.default_rng(1)
    n = 80
    chosen = {"detector": np.arange(n) % 2, "calib_psf_used": np.ones(n, bool), "slot_Centroid_x": rng.uniform(0, 99, n),
              "slot_Centroid_y": rng.uniform(0, 99, n), "slot_PsfFlux_instFlux": np.full(n, 1e4),
              "slot_PsfFlux_instFluxErr": np.full(n, 50.0), "slot_Shape_flag": np.zeros(n, bool),
              "slot_PsfFlux_flag": np.zeros(n, bool)}  # fmt: skip
    for axis, mean in (("xx", 4.2), ("yy", 3.8), ("xy", 0.1)):
        chosen[f"slot_Shape_{axis}"] = mean + rng.normal(0, 0.02, n)
        chosen[f"slot_PsfShape_{axis}"] = np.full(n, 0.0 if axis == "xy" else 4.0)
    task = make_task(UpdateVisitSummaryTask, {})
    task = UpdateVisitSummaryTask(config=task.config, camera=camera)
    result = task.run(
        catalogue(2.0, 0.0), exposures, psf_overrides=catalogue(2.1, 0.0), psf_star_catalog=Table(chosen),
        ap_corr_overrides=catalogue(2.1, 0.0),
    )  # fmt: skip
    out.add("summary", result.output_summary_catalog.table)
    geometry = getattr(result, "visit_geometry", None)
    if isinstance(geometry, Table | pd.DataFrame):
        out.add("summary.geometry", geometry)


def pair(out: Fingerprints) -> None:
    """`alertprod.subtract` and `alertprod diff` of two plain images: arrays, tables, files."""
    import alertprod

    new, old = plain(51, 1.7, changed=True), plain(52, 1.9)
    result = alertprod.subtract(new.copy(), old.copy(), score=True)
    out.add("pair.exposure", result.exposure)
    out.add("pair.score", result.score)
    out.add("pair.sources", result.sources)
    out.add("pair.report", {k: v for k, v in result.report.items() if isinstance(v, float | int | str)})
    positions = pd.DataFrame({"x": [20.5, 100.0, 310.2], "y": [30.0, 160.4, 15.0]})
    out.add("pair.photometry", alertprod.photometry(result, positions))
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, e in (("new", new), ("old", old)):
            paths.append(str(Path(folder) / f"{name}.fits"))
            header = e.require_wcs().to_header()
            header["MJD-OBS"], header["EXPTIME"] = MJD, 30.0
            fits.PrimaryHDU(e.image, header).writeto(paths[-1])
        target, table = Path(folder) / "d.fits", Path(folder) / "s.csv"
        module = moved("main", "service.commands.main", "service.cli").__module__
        subprocess.run(
            [sys.executable, "-P", "-m", module, "diff", *paths, "--output", str(target), "--sources", str(table)],
            check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(Path(alertprod.__file__).parents[1])},
        )  # fmt: skip
        out.add("command.sources", table.read_bytes())
        with fits.open(target) as hdus:
            for k, hdu in enumerate(hdus):
                out.add(f"command.difference.{k}.header", _cards(hdu.header))
                if hdu.data is not None:
                    data = hdu.data
                    out.add(f"command.difference.{k}.data", Table(data) if data.dtype.names else np.asarray(data))


def _cards(header: fits.Header) -> list[str]:
    """Return the cards of a header but those of dates, sums, versions and paths."""
    cards = [(k, v) for k, v in header.items() if not any(word in k for word in VOLATILE_CARDS)]
    return [f"{k}={v!r}" for k, v in cards if "/" not in str(v) and k not in ("HISTORY", "COMMENT")]


SECTIONS: dict[str, Callable[[Fingerprints], Any]] = {
    "difference": difference, "characterize": characterization, "templates": templates, "forced": forced,
    "sources": sources, "association": association, "alerts": alerts, "pipeline": pipeline, "joint": joint,
    "summary": summary, "pair": pair,
}  # fmt: skip


def compare(now: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """Return one line for every item that differs, is new, or is missing, of the sections that were run."""
    words = {name: "differs" for name in now.keys() & before.keys() if now[name] != before[name]}
    words |= dict.fromkeys(now.keys() - before.keys(), "is new")
    words |= dict.fromkeys(before.keys() - now.keys(), "is missing")
    return [f"{name} {words[name]}" for name in sorted(words)]


def run(names: list[str]) -> dict[str, str]:
    """Run sections and return the hashes by ``SECTION:item``."""
    hashes: dict[str, str] = {}
    for name in names:
        start = time.perf_counter()
        out = Fingerprints()
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            SECTIONS[name](out)
            check_one_tree()
        print(f"{name}: {len(out.hashes)} items, {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        hashes |= {f"{name}:{key}": value for key, value in out.hashes.items()}
    return hashes


def main() -> int:
    """Print the hashes; with ``--compare`` what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--json", type=Path, help="write the hashes to this file")
    parser.add_argument("--compare", type=Path, help="a file that --json wrote")
    options = parser.parse_args()
    unknown = sorted(set(options.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"no section {', '.join(unknown)}")
    names = options.sections or list(SECTIONS)
    hashes = run(names)
    if options.json:
        options.json.write_text(json.dumps(hashes, indent=0), encoding="utf-8")
    if options.compare is None:
        print("\n".join(f"{name} {value}" for name, value in hashes.items()))
        return 0
    before = json.loads(options.compare.read_text(encoding="utf-8"))
    before = {k: v for k, v in before.items() if k.split(":")[0] in names}
    lines = compare(hashes, before)
    print("\n".join(lines) if lines else f"{len(hashes)} items, all equal")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
