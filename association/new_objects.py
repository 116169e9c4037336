"""Which unmatched sources become objects, and which are marginal."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from apdb import columns_of
from association.errors import AssociationError
from tasks.arrays import Flags

__all__ = ["NewSourceRules", "NewSources", "filter_new_sources", "new_objects", "new_source_tests"]

BAD_FLAGS = (
    "centroid_flag", "pixelFlags_crCenter", "pixelFlags_nodataCenter", "pixelFlags_interpolatedCenter",
    "pixelFlags_saturatedCenter", "pixelFlags_suspectCenter", "pixelFlags_streakCenter", "glint_trail",
)  # fmt: skip


@dataclass(frozen=True)
class NewSourceRules:
    """Thresholds; 0 switches a test off. NaN never rejects."""

    bad_flags: tuple[str, ...] = BAD_FLAGS
    flux_field: str = "apFlux"
    snr: float = 0.0
    reliability: float = 0.0
    low_reliability_snr: float = 0.0
    low_snr_reliability: float = 0.0

    def __post_init__(self) -> None:
        columns = {c.name for c in columns_of("DiaSource")}
        unknown = [n for n in (*self.bad_flags, self.flux_field, f"{self.flux_field}Err") if n not in columns]
        if unknown:
            raise AssociationError(f"no such DiaSource columns: {unknown}")


@dataclass(frozen=True)
class NewSources:
    """Unmatched sources: `good` ones become objects, `marginal` ones are neither stored nor alerted."""

    good: pd.DataFrame
    marginal: pd.DataFrame


def new_source_tests(diaSources: pd.DataFrame, config: NewSourceRules | None = None) -> dict[str, Flags]:
    """Return, by test, shape (sources,), which unmatched sources fail it: flags by their names, ``snr``, ``reliability`` and both together."""
    rules = config or NewSourceRules()
    tests = {f: diaSources[f].fillna(False).to_numpy(bool) for f in rules.bad_flags if f in diaSources}
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = diaSources[rules.flux_field].to_numpy(np.float64)
        snr = np.abs(flux / diaSources[f"{rules.flux_field}Err"].to_numpy(np.float64))
        reliability = diaSources["reliability"].to_numpy(np.float64)
        if rules.snr > 0:
            tests["snr"] = snr < rules.snr
        if rules.reliability > 0:
            tests["reliability"] = reliability < rules.reliability
        if rules.low_reliability_snr > 0 and rules.low_snr_reliability > 0:
            tests["snr_and_reliability"] = (snr < rules.low_reliability_snr) & (reliability < rules.low_snr_reliability)
    return tests


def filter_new_sources(diaSources: pd.DataFrame, config: NewSourceRules | None = None) -> NewSources:
    """Split unmatched sources into ``good`` (become objects) and ``marginal`` (never stored nor alerted)."""
    tests = new_source_tests(diaSources, config)
    reject = np.any(list(tests.values()), axis=0) if tests else np.zeros(len(diaSources), np.bool_)
    return NewSources(good=diaSources[~reject].copy(), marginal=diaSources[reject].copy())


def new_objects(sources: pd.DataFrame) -> pd.DataFrame:
    """Return objects founded by sources: the object takes the id and position of its first source."""
    out = sources[["ra", "dec", "raErr", "decErr", "ra_dec_Cov"]].copy()
    out.insert(0, "diaObjectId", sources.diaSourceId.to_numpy(np.int64))
    out["nDiaSources"] = 0
    out["firstDiaSourceMjdTai"] = out["lastDiaSourceMjdTai"] = np.nan
    return out.reset_index(drop=True)
