"""Joint calibration and visit summaries: time, memory, accuracy; SCAMP beside it where the program is there.

Run ``python -m benchmarks.calibration [compare|scale|pulls|all]``. Everything is made from `simulation.focal_plane`.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits
from scipy.spatial import cKDTree

from calibration.joint.config import JointcalConfig
from calibration.joint.data import ARCSEC
from calibration.joint.io.files import read_headers
from calibration.joint.task import JointcalTask
from simulation.focal_plane import MosaicSettings, MosaicSurvey, simulate_mosaic
from tasks.sphere import unit_vectors

ZERO_MAG = 31.4


def write_survey(s: MosaicSurvey, folder: Path) -> None:
    """Write the plain files of the command line."""
    (folder / "hdr").mkdir(parents=True)
    for t in s.sources:
        t.to_parquet(folder / f"{t.visit.iloc[0]}.parquet")
    for (v, d), h in s.headers.items():
        hdu = fits.PrimaryHDU()
        hdu.header.update(h)
        hdu.writeto(folder / "hdr" / f"{v}_{d}.hdr")
    s.references.to_parquet(folder / "refs.parquet")
    s.camera.write(folder / "camera.yaml")


def command(folder: Path) -> float:
    """Run the command line and return its wall time."""
    start = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "service.commands.main",
            "jointcal",
            "run",
            "--sources",
            *map(str, sorted(folder.glob("1*.parquet"))),
            "--headers",
            *map(str, sorted((folder / "hdr").glob("*"))),
            "--camera",
            str(folder / "camera.yaml"),
            "--astrometry-refs",
            str(folder / "refs.parquet"),
            "--photometry-refs",
            str(folder / "refs.parquet"),
            "--out",
            str(folder / "out"),
            "--loglevel",
            "error",
        ],
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


_SCAMP = {
    "ASTREF_CATALOG": "FILE", "ASTREFCENT_KEYS": "X_WORLD,Y_WORLD",
    "ASTREFERR_KEYS": "ERRA_WORLD,ERRB_WORLD,ERRTHETA_WORLD", "ASTREFMAG_KEY": "MAG", "ASTREFMAGERR_KEY": "MAGERR",
    "MATCH": "N", "CROSSID_RADIUS": "2.0", "DISTORT_DEGREES": "3", "STABILITY_TYPE": "EXPOSURE",
    "CHECKPLOT_TYPE": "NONE", "WRITE_XML": "Y", "SN_THRESHOLDS": "10.0,100.0", "SOLVE_PHOTOM": "Y",
    "PHOTINSTRU_KEY": "FILTER", "VERBOSE_TYPE": "NORMAL", "NTHREADS": "2", "POSITION_MAXERR": "1.0",
    "FWHM_THRESHOLDS": "0.0,100.0", "ELLIPTICITY_MAX": "1.0", "CENTROID_KEYS": "XWIN_IMAGE,YWIN_IMAGE",
    "CENTROIDERR_KEYS": "ERRAWIN_IMAGE,ERRBWIN_IMAGE,ERRTHETAWIN_IMAGE", "PHOTFLUX_KEY": "FLUX_AUTO",
    "PHOTFLUXERR_KEY": "FLUXERR_AUTO", "ASTREF_WEIGHT": "1.0", "ASTRACCURACY_TYPE": "SIGMA-PIXEL",
    "ASTR_ACCURACY": "0.02",
}  # fmt: skip


def scamp(s: MosaicSurvey, folder: Path) -> dict[str, float] | None:
    """Run SCAMP on the same detections (S/N > 10) with a degree-3 distortion per chip and exposure."""
    if shutil.which("scamp") is None:
        return None
    folder.mkdir()
    names = []
    for t in s.sources:
        hdus: list[Any] = [fits.PrimaryHDU()]
        for d, g in t[t.apFlux_12_0_instFlux > 10 * t.apFlux_12_0_instFluxErr].groupby("detector"):
            hdus += _ldac(_scamp_header(s.headers[int(g.visit.iloc[0]), int(d)]), _scamp_columns(g))
        path = folder / f"{t.visit.iloc[0]}.cat"
        fits.HDUList(hdus).writeto(path)
        _pad_with_spaces(path)
        names.append(str(path))
    _scamp_references(s, folder / "ref.cat")
    start = time.perf_counter()
    done = subprocess.run(
        [
            "scamp",
            *names,
            "-c",
            "/dev/null",
            *(word for key, value in _SCAMP.items() for word in (f"-{key}", value)),
            "-ASTREFCAT_NAME",
            str(folder / "ref.cat"),
            "-XML_NAME",
            str(folder / "scamp.xml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - start
    return {"wall_s": wall, **_scamp_numbers(done.stdout + done.stderr)}


def _scamp_numbers(said: str) -> dict[str, float]:
    """Read the statistics at S/N > 100, after clipping, from what SCAMP prints."""
    out: dict[str, float] = {}
    for key, title in (
        ("internal_mas", r"Astrometric stats \(internal\)"),
        ("external_mas", r"Astrometric stats \(external\)"),
    ):
        lines = re.findall(title + r".*?Group +1:([^\n]*)", said, re.DOTALL)
        if lines:
            sizes = [float(v) for v in re.findall(r'([0-9.]+)"', lines[-1])]
            out[key] = 1e3 * float(np.hypot(*sizes[-2:]) / np.sqrt(2))
    lines = re.findall(r"Photometric stats \(internal\).*?Group +1:[^\n]*?P1 +([^\n]*)", said, re.DOTALL)
    if lines:
        out["photometry_mmag"] = 1e3 * float(lines[-1].split()[3])
    return out


def _scamp_header(h: fits.Header) -> fits.Header:
    """A plain TAN header at the chip's middle: SCAMP fits the distortion itself."""
    from exposure import SkyWcs
    from exposure.wcs.tangent import local_linear

    wcs = local_linear(SkyWcs.from_header(h), h["IMAGEW"] / 2, h["IMAGEH"] / 2).to_header()
    out = fits.Header(
        [("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", h["IMAGEW"]), ("NAXIS2", h["IMAGEH"])]
    )
    for i in (1, 2):
        out[f"CTYPE{i}"], out[f"CUNIT{i}"] = ("RA---TAN", "DEC--TAN")[i - 1], "deg"
        out[f"CRPIX{i}"], out[f"CRVAL{i}"] = wcs[f"CRPIX{i}"], wcs[f"CRVAL{i}"]
        for j in (1, 2):
            out[f"CD{i}_{j}"] = wcs.get(f"PC{i}_{j}", float(i == j)) * wcs[f"CDELT{i}"]
    out["EQUINOX"], out["RADESYS"], out["EXPTIME"], out["AIRMASS"], out["FILTER"] = 2000.0, "ICRS", 1.0, 1.2, "z"
    out["INSTRUME"], out["MJD-OBS"], out["MAGZEROP"] = "mosaic", h["MJD-OBS"], 31.0
    return out


def _scamp_columns(g: pd.DataFrame) -> list[fits.Column]:
    e = np.hypot(g.xErr.to_numpy(), 0.02)
    f, fe = g.apFlux_12_0_instFlux.to_numpy(), g.apFlux_12_0_instFluxErr.to_numpy()
    numbers = {
        "ERRAWIN_IMAGE": e,
        "ERRBWIN_IMAGE": e,
        "ERRTHETAWIN_IMAGE": 0 * e,
        "FLUX_AUTO": f,
        "FLUXERR_AUTO": fe,
        "MAG_AUTO": -2.5 * np.log10(f),
        "MAGERR_AUTO": 1.0857 * fe / f,
        "FLUX_RADIUS": 0 * e + 3,
    }
    return [
        fits.Column("XWIN_IMAGE", "1D", array=g.x.to_numpy() + 1),
        fits.Column("YWIN_IMAGE", "1D", array=g.y.to_numpy() + 1),
        *(fits.Column(n, "1E", array=a) for n, a in numbers.items()),
        fits.Column("FLAGS", "1I", array=np.zeros(len(g), "i2")),
    ]


def _ldac(header: fits.Header, columns: list[fits.Column]) -> list[Any]:
    text = header.tostring(endcard=True, padding=True)
    text += " " * (-len(text) % 80)
    cards = np.array([[text[i : i + 80] for i in range(0, len(text), 80)]], "S80")
    head = fits.Column("Field Header Card", format=f"{len(text)}A", array=cards, dim=f"(80,{len(text) // 80})")
    return [
        fits.BinTableHDU.from_columns([head], name="LDAC_IMHEAD"),
        fits.BinTableHDU.from_columns(columns, name="LDAC_OBJECTS"),
    ]


def _pad_with_spaces(path: Path) -> None:
    """SCAMP 2.10 crashes on header cards that are padded with NUL, as astropy writes strings."""
    with fits.open(path) as hdus:
        spans = [(h.fileinfo()["datLoc"], h.header["NAXIS1"]) for h in hdus if h.name == "LDAC_IMHEAD"]
    with path.open("r+b") as handle:
        for offset, size in spans:
            handle.seek(offset)
            raw = handle.read(size).replace(b"\0", b" ")
            handle.seek(offset)
            handle.write(raw)


def _scamp_references(s: MosaicSurvey, path: Path) -> None:
    header = fits.Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0)])
    r = s.references
    e = np.degrees(r.coord_raErr.to_numpy())
    columns = [
        fits.Column("X_WORLD", "1D", unit="deg", array=np.degrees(r.coord_ra.to_numpy())),
        fits.Column("Y_WORLD", "1D", unit="deg", array=np.degrees(r.coord_dec.to_numpy())),
        fits.Column("ERRA_WORLD", "1E", unit="deg", array=e),
        fits.Column("ERRB_WORLD", "1E", unit="deg", array=e),
        fits.Column("MAG", "1E", array=ZERO_MAG - 2.5 * np.log10(r.z_flux.to_numpy())),
        fits.Column("MAGERR", "1E", array=0 * e + 0.01),
        fits.Column("OBSDATE", "1D", array=0 * e + 2015.0),
    ]
    fits.HDUList([fits.PrimaryHDU(), *_ldac(header, columns)]).writeto(path)
    _pad_with_spaces(path)


def accuracy(s: MosaicSurvey, result: Any) -> dict[str, float]:
    """Compare stars and zero points with the truth."""
    stars = result.stars
    distance, index = cKDTree(unit_vectors(s.truth.ra.to_numpy(), s.truth.dec.to_numpy())).query(
        unit_vectors(stars.ra.to_numpy(), stars.dec.to_numpy())
    )
    bright = s.truth.flux.to_numpy()[index] > 10 ** (-0.4 * (20.5 - ZERO_MAG))
    zero = [
        -2.5 * np.log10(float(c.at(*s.camera[d].centre)) / s.zero_points[v, d])
        for (v, d), c in result.outputPhotoCalib.items()
    ]
    return {
        "star_error_mas_median_sn100": 1e3 * float(np.median(distance[bright])) / ARCSEC,
        "star_error_mas_median": 1e3 * float(np.median(distance)) / ARCSEC,
        "zero_point_bias_mmag": 1e3 * float(np.median(zero)),
        "zero_point_scatter_mmag": 1e3 * float(np.std(zero)),
    }


def fit(s: MosaicSurvey, folder: Path) -> tuple[dict[str, Any], Any]:
    """Fit in this process; return metrics with times, and the result."""
    summaries = read_headers((folder / "hdr").glob("*"))
    task = JointcalTask(config=JointcalConfig(), astrometry_refs=s.references, photometry_refs=s.references)
    start = time.perf_counter()
    result = task.run(s.sources, summaries, s.camera)
    wall = time.perf_counter() - start
    return result.metrics | accuracy(s, result) | {"fit_wall_s": wall}, result


def compare(seed: int = 1) -> dict[str, Any]:
    """One simulated field of 4 visits x 103 chips, ours and SCAMP side by side."""
    s = simulate_mosaic(MosaicSettings(seed, 4, 103))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_survey(s, folder)
        fit(s, folder)  # compiled code is loaded
        walls, commands = [], []
        for _ in range(3):
            metrics, _ = fit(s, folder)
            walls.append(metrics["fit_wall_s"])
            commands.append(command(folder))
        other = scamp(s, folder / "scamp")
    out = {
        "measurements": sum(map(len, s.sources)),
        "ours": metrics
        | {
            "fit_wall_s": float(np.median(walls)),
            "command_wall_s": float(np.median(commands)),
        },
        "scamp": other,
    }
    if other and other.get("wall_s"):
        out["fit_to_scamp"] = out["ours"]["fit_wall_s"] / other["wall_s"]
        out["command_to_scamp"] = out["ours"]["command_wall_s"] / other["wall_s"]
    return out


def scale_once(stars_per_chip: float, n_visits: int) -> dict[str, Any]:
    """Fit one large field; meant for a process of its own, for its peak memory."""
    s = simulate_mosaic(MosaicSettings(5, n_visits, 103, stars_per_chip))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hdr").mkdir()
        for (v, d), h in s.headers.items():
            hdu = fits.PrimaryHDU()
            hdu.header.update(h)
            hdu.writeto(folder / "hdr" / f"{v}_{d}.hdr")
        metrics, _ = fit(s, folder)
    return {
        "measurements": sum(map(len, s.sources)),
        "visits": n_visits,
        "fit_wall_s": metrics["fit_wall_s"],
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        **{
            k: metrics[k] for k in metrics if k.endswith(("chi2", "ndof", "rms_mas", "converged", "mmag", "mas_median"))
        },
    }


def scale() -> list[dict[str, Any]]:
    """Cost against the number of measurements, 16 visits, each size in its own process."""
    out = []
    for stars_per_chip in (31.0, 310.0, 3100.0):
        code = f"import json; from benchmarks.calibration import scale_once; print(json.dumps(scale_once({stars_per_chip}, 16), default=float))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ,
        )
        out.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(out[-1]), flush=True)
    return out


def pulls() -> list[dict[str, Any]]:
    """Errors of stars in units of their formal errors, and chi2, against the headers' errors, outliers and visits (9 chips)."""
    out = []
    for n_visits in (4, 16):
        for header in (0.03, 0.3, 2.0):
            for outliers in (0.01, 0.05):
                s = simulate_mosaic(MosaicSettings(1, n_visits, 9, outliers=outliers, pointing_arcsec=header))
                with tempfile.TemporaryDirectory() as name:
                    write_survey(s, Path(name))
                    metrics, result = fit(s, Path(name))
                stars, truth = result.stars, s.truth
                tree = cKDTree(unit_vectors(truth.ra.to_numpy(), truth.dec.to_numpy()))
                index = tree.query(unit_vectors(stars.ra.to_numpy(), stars.dec.to_numpy()))[1]
                off = 3.6e6 * (stars[["ra", "dec"]].to_numpy() - truth[["ra", "dec"]].to_numpy()[index])
                off[:, 0] *= np.cos(np.radians(stars.dec))
                pull = off / np.sqrt(stars[["ra_var", "dec_var"]].to_numpy())
                halves = ("astrometry", "photometry")
                row = {"visits": n_visits, "header_arcsec": header, "outliers": outliers, "converged": result.converged}
                row["pull"] = 1.4826 * float(np.median(np.abs(pull)))
                row |= {f"{h}_chi2": metrics[f"{h}_final_chi2"] / metrics[f"{h}_final_ndof"] for h in halves}
                out.append(row)
                print(json.dumps(row), flush=True)
    return out


def main() -> None:
    """Run what was asked for and print JSON."""
    what = sys.argv[1] if len(sys.argv) > 1 else "all"
    if what in ("compare", "all"):
        print(json.dumps(compare(), indent=1, default=float), flush=True)
    if what in ("scale", "all"):
        scale()
    if what in ("pulls", "all"):
        pulls()


if __name__ == "__main__":
    main()
