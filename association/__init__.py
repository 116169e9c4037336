"""Sources to objects: standardising, matching, DiaObject statistics, solar-system matching; `DiaPipelineTask`.

Imports: ``alerts``, ``diffim``, ``forced``, ``exposure``, ``apdb``, ``tasks`` (never ``calibration``: same level). The task is thin;
matching and statistics are pure functions on DataFrames with APDB column names and units.
"""

from association.deduplicate import find_duplicates
from association.matching import associate, pair_scores
from association.new_objects import filter_new_sources
from association.solar_system import match_solar_system
from association.standardize import standardize
from association.statistics.summary import summarize
from association.task import DiaPipelineConfig, DiaPipelineTask

__all__ = [
    "DiaPipelineConfig",
    "DiaPipelineTask",
    "associate",
    "filter_new_sources",
    "find_duplicates",
    "match_solar_system",
    "pair_scores",
    "standardize",
    "summarize",
]
