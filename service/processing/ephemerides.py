"""Which solar-system bodies a visit may have seen, from whatever source the settings name."""

import numpy as np
import pandas as pd

from association.orbits import Ephemerides, FirstThatAnswers, MpSky, OrbitCatalog, PositionTable
from association.orbits.sources import MARGIN_DEG
from exposure import Exposure
from service.settings import Settings
from tasks.sphere import sky_positions, unit_vectors

__all__ = ["bodies_of", "ephemerides"]


def ephemerides(settings: Settings) -> Ephemerides | None:
    """Return the source of ephemerides: the service, then our own orbits, then the table; None when none is named.

    Raises
    ------
    OrbitError
        The orbits cannot be read, or the observatory is unknown.
    """
    sources: list[Ephemerides] = []
    if settings.ephemerides_url:
        sources.append(MpSky(settings.ephemerides_url))
    if settings.orbits:
        sources.append(OrbitCatalog.read(*settings.orbits, observatory=settings.observatory))
    if settings.ephemerides is not None:
        sources.append(PositionTable(pd.read_parquet(settings.ephemerides)))
    return FirstThatAnswers(*sources) if sources else None


def bodies_of(source: Ephemerides | None, image: Exposure) -> pd.DataFrame | None:
    """Return the bodies in the circle around an image, None without a source."""
    if source is None or image.visit_info is None:
        return None
    corners = unit_vectors(*image.sky_corners())
    centre = corners.sum(axis=0) / np.linalg.norm(corners.sum(axis=0))
    radius = np.degrees(np.arccos(np.clip((corners @ centre).min(), -1, 1)))
    ra, dec = sky_positions(centre)
    return source.around(image.visit_info.midpoint_mjd_tai, float(ra), float(dec), float(radius) + MARGIN_DEG)
