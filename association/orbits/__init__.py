"""Where known solar-system bodies are: orbit catalogues propagated here, tables of positions, an HTTP service.

Each source answers one question, `Ephemerides.around`: which bodies are near this place at this time?
"""

from association.orbits.catalog import OrbitCatalog
from association.orbits.elements import OrbitError, read_comets, read_mpcorb
from association.orbits.mpsky import MpSky
from association.orbits.sources import Ephemerides, FirstThatAnswers, PositionTable

__all__ = [
    "Ephemerides",
    "FirstThatAnswers",
    "MpSky",
    "OrbitCatalog",
    "OrbitError",
    "PositionTable",
    "read_comets",
    "read_mpcorb",
]
