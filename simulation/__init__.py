"""A synthetic survey: skies, PSFs, transients, variables, asteroids and artefacts, with the truth.

Imports: ``exposure``, ``tasks``. May be imported by tests, benchmarks and the demo of the command line only.
"""

from simulation.sky import Sky, SkySettings, make_sky
from simulation.survey import SurveyConfig, Visit, plan_visits, write_survey
from simulation.visit import DetectorImage, simulate_detector

__all__ = [
    "DetectorImage",
    "Sky",
    "SkySettings",
    "SurveyConfig",
    "Visit",
    "make_sky",
    "plan_visits",
    "simulate_detector",
    "write_survey",
]
