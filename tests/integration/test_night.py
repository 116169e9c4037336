"""Whole nights from the command line, in a folder with modules of our names: bad frames, positions, signals, kills."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from typer.testing import CliRunner

from exposure import Exposure
from service.commands.main import app
from tests.support.command_line import hear_signals

SIZE, SKY, GAIN, FWHM = 360, 300.0, 1.5, 3.0
TRANSIENT = (200.3, 150.7, 6000.0)  # x, y, counts
COMMAND = [str(Path(sys.executable).with_name("alertprod")), "night"]


def image(seed, transient=False):
    """Stars of one sky (the same for every seed), Poisson noise, and the transient where it is asked for."""
    sky = np.random.default_rng(1)
    x, y, flux = sky.uniform(5, SIZE - 5, 110), sky.uniform(5, SIZE - 5, 110), 10 ** sky.uniform(3.2, 5.0, 110)
    if transient:
        x, y, flux = (np.append(a, b) for a, b in zip((x, y, flux), TRANSIENT, strict=True))
    yy, xx = np.mgrid[:SIZE, :SIZE]
    two_variances = 2 * (FWHM / 2.3548) ** 2
    clean = np.full((SIZE, SIZE), SKY)
    for x0, y0, f in zip(x, y, flux, strict=True):
        clean += f / (np.pi * two_variances) * np.exp(-((xx - x0) ** 2 + (yy - y0) ** 2) / two_variances)
    return (np.random.default_rng(seed).poisson(clean * GAIN) / GAIN).astype(np.float32)


def wcs():
    out = WCS(naxis=2)
    out.wcs.ctype, out.wcs.crval, out.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [SIZE / 2, SIZE / 2]
    out.wcs.cdelt = [-0.4 / 3600, 0.4 / 3600]
    return out


@pytest.fixture(scope="module")
def place():
    """Frames, an instrument file, and modules that must not be loaded; below /tmp, where the database server may go."""
    folder = Path(tempfile.mkdtemp(prefix="night-test-"))
    folder.chmod(0o755)
    (folder / "alerts").mkdir()
    for name in ("alerts/__init__.py", "tasks.py"):
        (folder / name).write_text("raise RuntimeError('the wrong module')\n")
    (folder / "tmp").mkdir(mode=0o755)
    for name, seed, time_ in (
        ("t1", 2, "2024-01-01T01:00:00"),
        ("t2", 3, "2024-01-01T02:00:00"),
        ("n1", 4, "2024-02-01T01:00:00.2"),
        ("n2", 5, "2024-02-01T01:00:00.9"),
        ("nan", 6, "2024-02-01T03:00:00"),
        ("far", 7, "8600-02-01T03:00:00"),
    ):
        header = wcs().to_header()
        header["DATE-OBS"], header["EXPTIME"], header["FILTER"] = time_, 30.0, "r"
        pixels = np.full((SIZE, SIZE), np.nan, np.float32) if name == "nan" else image(seed, name[0] == "n")
        fits.writeto(folder / f"{name}.fits", pixels, header)
    (folder / "text.fits").write_text("no FITS at all")
    (folder / "mycam.yaml").write_text(
        "name: mycam\npixel_scale: 0.4\nvariance: empirical\nzeropoint: relative\ngain: {constant: 1.5}\n"
    )
    where = SkyCoord.from_pixel(TRANSIENT[0], TRANSIENT[1], wcs())
    ra, dec = where.ra.to_string("hourangle", sep=":", precision=5), where.dec.to_string(sep=":", precision=4)
    (folder / "positions.csv").write_text(f"Name,RA,DEC\nhost 1,{ra},{dec}\n")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start(place, *words):
    environment = {**os.environ, "TMPDIR": str(place / "tmp"), "ALERTPROD_WORKERS": "1"}
    return subprocess.Popen(
        [*COMMAND, "--instrument", "./mycam.yaml", *words],
        cwd=place,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hear_signals,
    )


def until(condition, seconds=40.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def left_over(place):
    """Processes whose command line or environment names the folder of temporary files, and what is in it."""
    mark, found = str(place / "tmp").encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" "))
        except OSError:
            continue
    return found + list((place / "tmp").glob("alertprod-*"))


def test_bad_frames_are_left_out_and_the_others_are_processed(place):
    night = start(
        place,
        "--template-frames",
        "t1.fits",
        "text.fits",
        "t2.fits",
        "--frames",
        "n2.fits",
        "n1.fits",
        "text.fits",
        "./n1.fits",
        "missing.fits",
        "nan.fits",
        "far.fits",
        "--out",
        "out",
        "--positions",
        "positions.csv",
    )
    shown, said = night.communicate(timeout=200)
    assert night.returncode == 1, said
    report = json.loads((place / "out" / "report.json").read_text())
    assert [(v["visit"], v["state"]) for v in report["visits"] if v["state"] == "done"] == [
        (24020103652, "done"),
        (24020103653, "done"),
    ]
    states = {(Path(f["frame"]).name, f["state"]): f for f in report["frames"]}
    failed = next(f for (name, _), f in states.items() if name == "nan.fits")
    assert {k for k in states if k[0] != "nan.fits"} == {
        ("n1.fits", "done"),
        ("n2.fits", "done"),
        ("text.fits", "refused"),
        ("text.fits", "template refused"),
        ("missing.fits", "refused"),
        ("far.fits", "refused"),
    }
    assert states["far.fits", "refused"]["code"] == "bad_card"  # a time in the year 8600
    assert (failed["state"], failed["code"]) in (("failed", "no_good_pixels"), ("refused", "no_good_pixels"))
    assert (report["exitStatus"], report["interrupted"], report["error"]) == (1, False, None)
    for text in ("missing.fits", "no_good_pixels", "template refused", "fits_unreadable"):
        assert text in shown
    assert "given twice" in said
    flux = pd.read_parquet(place / "out" / "forcedPositions.parquet")
    assert flux.id.tolist() == ["host 1", "host 1"]
    # the scale is that of the first template frame; the error holds the noise, 1 % the PSF's
    assert (np.abs(flux.psfFlux - TRANSIENT[2]) < 5 * flux.psfFluxErr + 0.01 * TRANSIENT[2]).all()
    sources = pd.read_parquet(place / "out" / "diaSources.parquet")
    assert sources.visit.nunique() == 2
    assert sorted(p.name for p in (place / "out").iterdir()) == [
        "diaForcedSources.parquet",
        "diaObjects.parquet",
        "diaSources.parquet",
        "forcedPositions.parquet",
        "report.json",
    ]
    until(lambda: left_over(place) == [])


def test_a_given_map_of_bad_pixels_holds_for_every_visit(place):
    """A block around the transient: nothing is found there, and the map is named in report and products."""
    x, y = round(TRANSIENT[0]), round(TRANSIENT[1])
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[y - 15 : y + 16, x - 15 : x + 16] = 1
    fits.writeto(place / "bad.fits", pixels)
    night = start(
        place,
        "--template-frames",
        "t1.fits",
        "--frames",
        "n1.fits",
        "--bad-pixels",
        "bad.fits",
        "--keep",
        "--out",
        "masked",
    )
    _, said = night.communicate(timeout=200)
    assert night.returncode == 0, said
    sha = hashlib.sha256((place / "bad.fits").read_bytes()).hexdigest()
    report = json.loads((place / "masked" / "report.json").read_text())
    assert report["badPixelMaps"] == [{"file": str(place / "bad.fits"), "sha256": sha}]
    product = next((place / "masked" / "products").glob("difference_*.fits"))
    header = fits.getheader(product)
    assert (header["BPMFILE"], header["BPMSHA"]) == ("bad.fits", sha)
    assert Exposure.read_fits(product).flagged("BAD")[y - 10 : y + 11, x - 10 : x + 11].all()
    sources = pd.read_parquet(place / "masked" / "diaSources.parquet")
    assert not (np.hypot(sources.x - TRANSIENT[0], sources.y - TRANSIENT[1]) < 8).any()
    until(lambda: left_over(place) == [])


@pytest.mark.parametrize(
    ("number", "when", "state"),
    [
        (signal.SIGINT, "building the template", 130),
        (signal.SIGHUP, "starting PostgreSQL", 129),
        (signal.SIGTERM, "processing", 143),
    ],
)
def test_a_signal_ends_the_night_in_order(place, number, when, state):
    night = start(place, "--template-frames", "t1.fits", "--frames", "n1.fits", "n2.fits", "--out", f"out{state}")
    assert night.stderr is not None
    next(line for line in night.stderr if when in line)
    night.send_signal(number)
    night.communicate(timeout=60)
    assert night.returncode == state
    report = json.loads((place / f"out{state}" / "report.json").read_text())
    assert (report["interrupted"], report["signal"], report["exitStatus"]) == (True, signal.Signals(number).name, state)
    assert [Path(f["frame"]).name for f in report["frames"]] == ["n1.fits", "n2.fits"]
    assert not list((place / f"out{state}").glob("night-*"))
    assert left_over(place) == []


def test_a_killed_night_leaves_nothing(place):
    """Nobody is told of SIGKILL: the warden of the scratch directory clears up."""
    night = start(place, "--template-frames", "t1.fits", "--frames", "n1.fits", "--out", "killed")
    assert night.stderr is not None
    next(line for line in night.stderr if "processing" in line)
    assert len(left_over(place)) > 4  # servers, a role, the warden, the scratch directory
    night.kill()
    night.communicate(timeout=60)
    until(lambda: left_over(place) == [])
    until(lambda: list((place / "killed").iterdir()) == [])


@pytest.mark.parametrize("point", ["kafka_started", "worker_started"])
def test_a_night_killed_before_it_notes_what_it_has_just_started_leaves_nothing(place, monkeypatch, point):
    monkeypatch.setenv("ALERTPROD_CRASH_POINT", point)
    night = start(place, "--template-frames", "t1.fits", "--frames", "n1.fits", "--out", point)
    assert night.communicate(timeout=120)[0] == ""
    assert night.returncode == -signal.SIGKILL
    until(lambda: left_over(place) == [])
    until(lambda: list((place / point).iterdir()) == [])
    assert list((place / "tmp").glob("*alertprod*")) == []  # nor one that is being made or deleted


def test_a_night_of_bad_frames_alone_ends_before_anything_starts(place):
    bad, out = [place / "text.fits", place / "missing.fits"], place / "none"
    words = ["night", "--instrument", str(place / "mycam.yaml"), "--out", str(out), "--json", "--template-frames",
             str(place / "t1.fits"), *(w for path in bad for w in ("--frames", str(path)))]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "alertprod: night_failed: none of the 2 frames" in done.stderr
    assert "starting" not in done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((out / "report.json").read_text())
    assert report["error"]["code"] == "night_failed"
    assert {Path(f["frame"]).name: f["code"] for f in report["frames"]} == {
        "text.fits": "fits_unreadable",
        "missing.fits": "fits_unreadable",
    }
