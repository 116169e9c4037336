"""``alertprod diff``: two FITS files in, a difference out."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from diffim.errors import MismatchError
from exposure import Exposure, SkyWcs
from exposure.errors import WcsMissing
from service.commands.main import app
from tests.support.difference_scene import ORIGIN, scene

NEW = (48, 156)  # px: where something new is, away from the stars


def write_planes(path, exposure, wcs=False, mask_names=("BAD", "SAT")):
    """The layout that `diff` expects of any camera: IMAGE, VARIANCE, MASK with MP_ cards, PSF as a cube."""
    header = exposure.wcs.to_header((0, 0)) if wcs else None
    mask = fits.ImageHDU(np.zeros(exposure.image.shape, np.int32), name="MASK")
    for bit, name in enumerate(mask_names):
        mask.header[f"MP_{name}"] = bit
    mask.data[100, 90] = 1 << mask_names.index("BAD")
    psf = fits.ImageHDU(exposure.psf.kernel_at(np.zeros(4), np.zeros(4)), name="PSF")
    psf.header["NGX"] = psf.header["NGY"] = 2
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(exposure.image, header, name="IMAGE"),
        fits.ImageHDU(exposure.variance, name="VARIANCE"),
        mask,
        psf,
    ]
    fits.HDUList(hdus).writeto(path)


@pytest.fixture
def pair(tmp_path):
    science, stars = scene(2.4, 3.0, 2, n=50)
    template, _ = scene(2.0, 1.0, 3, n=50)
    science.image += 900
    yy, xx = np.mgrid[0:256, 0:256]
    apart = np.hypot(stars.x - ORIGIN[0] - NEW[0], stars.y - ORIGIN[1] - NEW[1]).min()
    assert apart > 20
    bump = 9000 * np.exp(-0.5 * ((yy - NEW[1]) ** 2 + (xx - NEW[0]) ** 2) / 2.4**2) / (2 * np.pi * 2.4**2)
    science.image += bump.astype("f4")
    write_planes(tmp_path / "s.fits", science)
    write_planes(tmp_path / "t.fits", template)
    return tmp_path


def test_a_registered_pair(pair):
    options = {"-o": "d.fits", "--sources": "d.parquet", "--score": "score.fits", "--plots": "plots"}
    arguments = ["diff", str(pair / "s.fits"), str(pair / "t.fits"), "--registered", "--json"]
    for option, name in options.items():
        arguments += [option, str(pair / name)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["convolved"] == "convolveTemplate"
    difference = Exposure.read_fits(pair / "d.fits")
    with fits.open(pair / "d.fits") as hdus:
        assert {"IMAGE", "VARIANCE", "MASK", "PSF"} <= {h.name for h in hdus}
        assert (hdus["PSF"].header["NGX"], hdus["PSF"].data.ndim) == (12, 3)
    z = (difference.image / np.sqrt(difference.variance))[30:-30, 30:-30]
    assert abs(np.median(z)) < 0.05
    quiet = np.abs(z) < 4
    assert z[quiet].std() == pytest.approx(1, abs=0.05)
    assert (difference.mask[100, 90] & 1) == 1
    assert difference.wcs is None  # neither has one: none is invented
    assert not difference.flagged("DETECTED").any()
    sources = pd.read_parquet(pair / "d.parquet")
    near = np.hypot(sources.x - NEW[0], sources.y - NEW[1])
    best = sources.iloc[near.argmin()]
    assert near.min() < 0.3
    assert best.psfInstFlux == pytest.approx(9000, rel=0.02)
    score = Exposure.read_fits(pair / "score.fits")
    assert score.image[NEW[1], NEW[0]] > 50
    assert {p.name for p in (pair / "plots").iterdir()} == {
        f"{name}.png" for name in ("difference", "noise", "psf", "kernel", "stars", "sources")
    } | ({"dipoles.png"} if sources.isDipole.any() else set())


def test_a_pair_on_two_grids(pair, tmp_path):
    science, _ = scene(2.4, 3.0, 2, n=50)
    template, _ = scene(2.0, 1.0, 3, n=50, pad=60)
    for exposure, name in ((science, "sw.fits"), (template, "tw.fits")):
        exposure.write_fits(tmp_path / name)
    done = CliRunner().invoke(
        app, ["diff", str(tmp_path / "sw.fits"), str(tmp_path / "tw.fits"), "-o", str(tmp_path / "o.fits")]
    )
    assert done.exit_code == 0, done.output
    difference = Exposure.read_fits(tmp_path / "o.fits")
    z = (difference.image / np.sqrt(difference.variance))[40:-40, 40:-40]
    assert z.std() == pytest.approx(1, abs=0.08)


def test_a_registered_pair_keeps_the_wcs_of_the_image(pair):
    science, _ = scene(2.4, 3.0, 2, n=50)
    write_planes(pair / "sw.fits", science, wcs=True)
    names = [str(pair / n) for n in ("sw.fits", "t.fits")]
    done = CliRunner().invoke(app, ["diff", *names, "-o", str(pair / "o.fits"), "--registered"])
    assert done.exit_code == 0, done.output
    x, y = np.array([10.0, 200.0]), np.array([30.0, 90.0])
    with fits.open(pair / "sw.fits") as hdus:
        expected = SkyWcs.from_header(hdus["IMAGE"].header).pixel_to_sky(x, y)
    assert np.allclose(Exposure.read_fits(pair / "o.fits").require_wcs().pixel_to_sky(x, y), expected, atol=1e-9)


def test_pairs_that_cannot_be_subtracted(pair):
    small = fits.getdata(pair / "s.fits", "IMAGE")[:200]
    fits.writeto(pair / "small.fits", small)
    names = [str(pair / n) for n in ("s.fits", "small.fits")]
    done = CliRunner().invoke(app, ["diff", *names, "-o", str(pair / "o.fits"), "--registered"])
    assert isinstance(done.exception, MismatchError)
    done = CliRunner().invoke(app, ["diff", *names, "-o", str(pair / "o.fits")])
    assert isinstance(done.exception, WcsMissing)
    assert not (pair / "o.fits").exists()


def test_a_subtraction_loads_only_what_it_needs_and_leaves_the_rest_usable(pair):
    """Half of a short command's time would go into modules; what it keeps out while numba loads can be had afterwards."""
    code = """
import sys
import numpy as np
from service.commands.main import app
arguments = sys.argv[1:]
app(arguments, standalone_mode=False)
print([m for m in ("scipy.spatial", "scipy.stats", "rich") if m in sys.modules])
import scipy.linalg, gc
print(gc.isenabled(), scipy.linalg.det(np.eye(2)))
"""
    files = [str(pair / name) for name in ("s.fits", "t.fits")]
    words = ["diff", *files, "--registered", "-c", "doDecorrelation=false", "-o", str(pair / "d.fits")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["[]", "True 1.0"]
