"""Alert production as a batch: BPS on Parsl's local executor with two workers (``ALERTPROD_BPS=1``; `make middleware-test`)."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from lsst.daf.butler import Butler

from apdb import Database
from apdb.operate.export import all_rows
from tests.support.databases import copied_database
from tests.support.pipetask import make_repository

pytestmark = pytest.mark.skipif(
    "ALERTPROD_BPS" not in os.environ, reason="minutes, and the extra batch: ALERTPROD_BPS=1"
)
LABELS = (
    "mpSkyEphemerisQuery", "consolidateVisitSummary", "calibrateImage", "buildTemplate", "subtractImages",
    "standardizeDiaSource", "associateApdb",
)  # fmt: skip
CONFIG = Path(__file__).parents[2] / "middleware" / "batch" / "ap.yaml"


def alertprod(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "service.commands.main", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_more_than_forty_quanta_run_in_order_on_two_workers(survey, template_database, tmp_path):
    visits = make_repository(survey, tmp_path / "repo", 4)
    shutil.copy(CONFIG, tmp_path / "ap.yaml")
    with copied_database(template_database) as uri:
        (tmp_path / "apdb.uri").write_text(uri)
        mine = {
            "includeConfigs": [str(tmp_path / "ap.yaml")],
            "payload": {
                "payloadName": "ap", "butlerConfig": str(tmp_path / "repo"),
                "inCollection": "simcam/raw/all,templates/default", "dataQuery": "instrument='simcam'",
            },
            "extraQgraphOptions": "--instrument middleware.instrument.simcam "
            f"-c parameters:apdb_config={tmp_path / 'apdb.uri'}",
        }  # fmt: skip
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
        begin = time.monotonic()
        alertprod("bps", "submit", "mine.yaml", folder=tmp_path)
        print(f"{time.monotonic() - begin:.0f} s")
        stored = all_rows(Database(uri), "DiaSource")
    butler = Butler.from_config(str(tmp_path / "repo"))
    outputs = [c for c in butler.collections.query("u/*") if re.search(r"/ap/", c)]
    markers = butler.query_datasets("apdb_marker", collections=outputs)
    assert {(r.dataId["visit"], r.dataId["detector"]) for r in markers} == {(v, d) for v in visits for d in (0, 1)}
    done = [len(butler.query_datasets(f"{label}_metadata", collections=outputs)) for label in LABELS]
    assert sum(done) == 2 * 4 + 5 * 8 >= 40
    founded = stored[stored.diaObjectId == stored.diaSourceId].set_index("diaObjectId").visit
    for number, visit in zip(stored.diaObjectId, stored.visit, strict=True):
        assert (
            number == 0 or founded[number] <= visit
        )  # the first visit that saw an object founded it: they came in order
