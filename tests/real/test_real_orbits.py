"""Orbits against observations of 3I/ATLAS by 37 stations."""

import numpy as np
import pandas as pd
import pytest
from astropy.time import Time

from association.orbits import OrbitCatalog, OrbitError
from association.orbits.dynamics import Planets
from association.orbits.observatory import geocentric
from tests.support.real import real_data

ELEMENTS = ["q", "e", "i", "node", "argperi", "peri_time"]
PUBLISHED = np.array(
    [1.3564, 6.1394, 175.113, 322.157, 128.010, 60977.48]
)  # to the digits of the discovery's circulars
STEPS = np.array([1e-5, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4])


class _Observations:
    def __init__(self) -> None:
        d = pd.read_csv(real_data("mpc_observations") / "3I_ATLAS_ades.csv")
        d["mjd"] = Time(d.obsTime.str.rstrip("Z").tolist(), scale="utc").tai.mjd
        self.table = d[[self._on_ground(code) for code in d.stn]].reset_index(drop=True)
        given = np.sqrt((self.table.rmsRA**2 + self.table.rmsDec**2) / 2).to_numpy()
        self.errors = np.maximum(np.nan_to_num(given, nan=0.7), 0.2)
        self.planets = Planets()

    @staticmethod
    def _on_ground(code: str) -> bool:
        try:
            geocentric(code, 60850.0)
        except OrbitError:
            return False
        return True

    def residuals(self, sets: np.ndarray) -> np.ndarray:
        """Return (sets, observations, 2) observed minus predicted, arcsec, of several sets of elements at once."""
        orbits = pd.DataFrame(sets, columns=ELEMENTS).assign(
            packed="0003I", designation="3I/ATLAS", epoch_mjd=60858.0, h=12.0, g=0.15
        )
        by_site = {}
        out = np.empty((len(sets), len(self.table), 2))
        for k, row in enumerate(self.table.itertuples()):
            if row.stn not in by_site:
                by_site[row.stn] = OrbitCatalog(orbits, row.stn, self.planets)
            at = by_site[row.stn].around(row.mjd, row.ra, row.dec, 5.0)
            out[:, k, 0] = (row.ra - at.ephRa) * np.cos(np.radians(row.dec)) * 3600
            out[:, k, 1] = (row.dec - at.ephDec) * 3600
        return out


@pytest.mark.filterwarnings("ignore")
def test_observed_places_of_an_interstellar_comet() -> None:
    seen = _Observations()
    assert len(seen.table) >= 45
    fitted = np.arange(len(seen.table)) % 2 == 0
    elements = PUBLISHED.copy()
    for step, cut in enumerate((3e-4, 3e-5, 1e-5)):
        r = seen.residuals(np.vstack([elements, elements + np.diag(STEPS)]))
        if step == 0:
            # elements of 4 decimals already tell the place to 3 parts in 10^7 of the circle
            assert np.median(np.hypot(*r[0].T)) < 1.0
        pull = r[0] / seen.errors[:, None]
        weight = 1 / (seen.errors * np.sqrt(1 + (pull**2).sum(1) / 9))
        slopes = (r[1:] - r[0]) / STEPS[:, None, None] * weight[None, :, None]
        matrix = slopes[:, fitted].reshape(len(STEPS), -1).T
        scale = np.linalg.norm(matrix, axis=0)
        wanted = -(r[0] * weight[:, None])[fitted].ravel()
        elements = elements + np.linalg.lstsq(matrix / scale, wanted, rcond=cut)[0] / scale
    (r,) = seen.residuals(elements[None, :])
    pull = r / seen.errors[:, None]
    for half in (fitted, ~fitted):
        assert np.median(np.abs(r[half])) < 0.3  # arcsec
        assert 1.4826 * np.median(np.abs(pull[half])) < 1.1
    assert abs(np.average(r[~fitted, 0], weights=seen.errors[~fitted] ** -2)) < 0.15
    assert elements[1] == pytest.approx(6.139, abs=0.02) and elements[2] == pytest.approx(175.113, abs=0.005)
