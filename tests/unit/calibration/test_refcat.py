"""calibration/refcat: which sources are stars of the reference."""

import numpy as np
import pandas as pd

from calibration import ReferenceStars
from calibration.refcat import match_stars
from exposure import Exposure, SkyWcs


def test_a_source_without_a_position_has_no_match():
    s = 0.2 / 3600
    wcs = SkyWcs.tan((50, 50), (10.0, 5.0), [[-s, 0], [0, s]])
    x, y = np.array([20.0, 60.0, 80.0]), np.array([30.0, 40.0, 70.0])
    ra, dec = wcs.pixel_to_sky(x, y)
    reference = ReferenceStars(pd.DataFrame({"ra": ra, "dec": dec, "flux": 100.0, "fluxErr": 1.0}))
    sources = pd.DataFrame({"x": x + 0.1, "y": y, "psfFlux": [1.0, 2.0, 3.0], "psfFluxErr": 0.1})
    sources.loc[1, "x"] = np.nan
    image = np.zeros((100, 100), np.float32)
    e = Exposure(image, image + 1, np.zeros((100, 100), np.int32), wcs=wcs)
    matches = match_stars(e, sources, reference, wcs)
    assert list(matches.flux) == [1.0, 3.0]
    assert np.allclose(matches.x, [20.1, 80.1])
