"""What the ledger keeps of the numbers of a subtraction: all that have a limit, of a visit that is refused too."""

from dataclasses import replace

import numpy as np
import pytest

from apdb import Ledger
from apdb.queue.states import VisitState
from diffim.checks.gate import LIMITS
from diffim.errors import BadSubtraction
from exposure import PhotoCalib, load_instrument
from service.processing.veto import veto_reason
from service.processing.visit import Processor, _measured, _Run
from tests.support.difference_scene import scene, subtract


@pytest.fixture(scope="module")
def pair():
    science, sources = scene(2.6, 5.0, 1)
    science.sources = sources
    return science, scene(2.2, 5.0, 2, pad=40)[0]


@pytest.fixture
def run(database):
    ledger = Ledger(database)
    ledger.submit({"instrument": "simcam", "science": "/1.fits", "band": "r"}, 1, 2)
    return _Run(ledger.claim("test", 60.0, 0.0), load_instrument("simcam"))


def metrics(database, visit=1):
    with database.connect() as connection:
        row = connection.execute('SELECT metrics FROM "VisitQuality" WHERE visit = %s', (visit,)).fetchone()
    return row and row[0]


def test_a_veto_can_look_at_each_metric_that_has_a_limit(pair):
    science, template = pair
    task, _ = subtract(science, template, science.sources)
    kept = _measured(task, science, {})
    assert set(kept) >= {*LIMITS, "psfFluxErrorFactor", "diffimM5", "templateStarShare"}
    for name in LIMITS:
        value = kept[name]
        reason = veto_reason({name: value - 1.0}, kept)
        assert ("more than" if np.isfinite(value) else "was not measured") in reason, name
    assert sum(np.isfinite(kept[name]) for name in LIMITS) > 0.9 * len(LIMITS)


def test_of_a_visit_that_is_refused_the_metrics_are_kept(pair, run, database):
    science, template = pair
    processor = object.__new__(Processor)
    processor._ledger = Ledger(database)
    clouded = replace(template, photo_calib=PhotoCalib(2.0), metadata=dict(template.metadata))
    with pytest.raises(BadSubtraction, match="calibrations"):
        processor._subtract(run, science.copy(), clouded, {"skyLevel": 3.0})
    kept = metrics(database)
    assert kept["calibrationError"] == pytest.approx(-np.log(2), abs=0.05)  # 1 count of it is 2 of the image
    assert kept["skyLevel"] == 3.0
    assert "calibrations" in kept["qualityProblems"]
    assert Ledger(database).rows()[0]["state"] == VisitState.RUNNING  # the supervisor writes the refusal
    stale = replace(run.claim, attempt=run.claim.attempt + 1)
    Ledger(database).note_metrics(stale, {"calibrationError": 0.0})
    assert metrics(database) == kept  # another attempt's is not touched
