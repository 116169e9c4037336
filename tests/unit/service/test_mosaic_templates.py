"""Templates of mosaics with relative zero points: every detector sets its own scale, and none needs the stars of another."""

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from diffim.templates.store import TemplateStore, merge_stars
from exposure import Exposure, Instrument, PhotoCalib, VisitInfo
from service.local.night_frames import each_image
from service.processing.build_template import template_from_frames
from tests.support.plain_pair import SCALE, SKY, render, tan

SIDE, GAIN = 256, 1.5
RULES = Instrument.model_validate({
    "name": "mycam", "pixel_scale": SCALE, "variance": "empirical", "zeropoint": "relative", "gain": {"constant": GAIN},
    "detector": {"key": "CCDNUM"}, "ids": {"n_detectors": 4},
})  # fmt: skip


def mosaic(path, minute, seed):
    """Two detectors side by side, with stars of their own."""
    head = fits.Header({"DATE-OBS": f"2024-01-01T01:{minute:02d}:00", "EXPTIME": 30.0, "FILTER": "r"})
    hdus = [fits.PrimaryHDU(header=head)]
    for ccd in (1, 2):
        sky = np.random.default_rng(ccd)
        points = np.column_stack([sky.uniform(6, SIDE - 6, (70, 2)), 10 ** sky.uniform(3.3, 5.0, 70)])
        counts = np.random.default_rng(10 * seed + ccd).poisson((render(points, SIDE, 3.0) + SKY) * GAIN) / GAIN
        header = tan(SIDE).to_header()
        header["CRPIX1"] += 300 * (ccd - 1)
        header["CCDNUM"] = ccd
        hdus.append(fits.ImageHDU(counts.astype(np.float32), header, name=f"CCD{ccd}"))
    fits.HDUList(hdus).writeto(path)
    return path


def test_a_mosaic_gives_a_template_of_all_its_detectors(tmp_path):
    files = [mosaic(tmp_path / f"t{k}.fits", k, k) for k in (1, 2)]
    frames = [image for file in files for image in each_image(file, RULES)]
    assert [f.name for f in frames] == ["t1.fits[CCD1]", "t1.fits[CCD2]", "t2.fits[CCD1]", "t2.fits[CCD2]"]
    made = template_from_frames(tmp_path / "templates", "t", frames, RULES)
    assert sorted(i["detector"] for i in made.manifest["inputs"]) == [1, 1, 2, 2]
    stars = TemplateStore(tmp_path / "templates").get("t", "r").stars()
    middle = tan(SIDE).pixel_to_world_values(-22.0, 128.0)[0]  # between the two: the second lies to the east
    east = stars.ra > middle
    assert east.sum() > 15 and (~east).sum() > 15


def seen(detector, ra, visit=1):
    """An exposure with one bright star at each right ascension."""
    n = len(ra)
    sources = pd.DataFrame({"ra": ra, "dec": np.zeros(n), "psfFlux": np.full(n, 100.0), "x": np.zeros(n), "y": np.zeros(n),
                            "isolated": True, "flagged": False, "snr": 100.0})  # fmt: skip
    plane = np.zeros((8, 8), np.float32)
    exposure = Exposure(plane, plane + 1, np.zeros((8, 8), np.int32))
    exposure.sources, exposure.photo_calib = sources, PhotoCalib(1.0)
    exposure.visit_info = VisitInfo(
        visit=visit, detector=detector, midpoint_mjd_tai=60000.0, exposure_time=1.0, instrument="mycam"
    )
    return exposure


@pytest.mark.parametrize(
    ("exposures", "kept"),
    [
        ([(1, [10.0]), (2, [20.0]), (3, [30.0])], [10.0, 20.0, 30.0]),  # one exposure of each of three detectors
        ([(1, [10.0]), (1, [10.0, 11.0]), (1, [10.0])], [10.0]),  # what one of three has seen is left out
        ([(1, [10.0]), (1, [10.0, 11.0]), (1, [10.0]), (2, [20.0])], [10.0, 20.0]),
    ],
)
def test_stars_are_asked_to_be_seen_twice_where_their_detector_looked_three_times(exposures, kept):
    merged = merge_stars([seen(detector, np.array(ra)) for detector, ra in exposures], SCALE)
    assert sorted(merged.ra) == kept
