"""Bad pixels of the HAT-P-32 camera: learned on one half of the night, judged on the other."""

import numpy as np
import pandas as pd

from calibration.defects.learned_map import SkyFrame
from exposure import Exposure, load_instrument
from exposure.io.native import read_wcs
from service.frames.bad_pixels import learn_bad_pixels
from tests.support.real import real_data


def test_a_map_of_half_a_night_holds_in_the_other_half(tmp_path):
    frames = sorted(real_data("microobs_hatp32").glob("hatp32_*.fits.gz"))
    rules = load_instrument("hatp32")
    report = learn_bad_pixels(rules, frames[:18], tmp_path / "map.fits")["detectors"]["0"]
    assert report["nFramesUsed"] == 18
    masked = rules.model_validate({**rules.model_dump(), "bad_pixels": str(tmp_path / "map.fits")})
    bad = Exposure.read_fits(frames[20], masked).flagged("BAD")
    assert bad.any()
    # what the other half says: the median over frames, in sigma of the sky, with stars passing by
    other = np.stack([SkyFrame.of(Exposure.read_fits(f, rules), 48).pixels.astype(np.float32) for f in frames[18::2]])
    off = np.nan_to_num(np.median(other, axis=0))
    error = 1.2533 / 3  # of a median of nine
    good = np.abs(off) < 2.5 - 2 * error
    assert (bad & good).sum() <= 0.01 * good.sum()
    assert bad[off > 10].mean() > 0.95
    ra, dec = read_wcs(frames[0]).pixel_to_sky(423.2, 286.0)
    epochs = [read_wcs(f).sky_to_pixel(ra, dec) for f in frames[:18]]
    path = pd.DataFrame([(round(float(x)), round(float(y))) for x, y in epochs], columns=["x", "y"])
    on_path = np.array(
        [[bad[y + j, x + i] for j in (-1, 0, 1) for i in (-1, 0, 1)] for x, y in path.itertuples(index=False)]
    )
    stands_out = np.array(
        [
            [np.abs(off)[y + j, x + i] > 1 for j in (-1, 0, 1) for i in (-1, 0, 1)]
            for x, y in path.itertuples(index=False)
        ]
    )
    assert not (on_path & ~stands_out).any()  # none because a star went over it
