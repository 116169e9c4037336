"""A simulated survey through processing and database, judged against its truth."""

import fastavro
import numpy as np
import pandas as pd
import pytest

from apdb import Ledger
from apdb.operate.export import all_rows
from exposure import load_instrument
from service.intake.headers import read_facts
from service.intake.submit import submit_visit
from service.local.judge import judge
from service.processing.build_template import template_from_frames
from service.processing.visit import Processor
from service.settings import Settings
from simulation.survey import SurveyConfig, write_survey

CONFIG = SurveyConfig(
    seed=7,
    visits=12,
    template_visits=4,
    detectors=1,
    size=1024,
    stars=2600,
    galaxies=900,
    variables=120,
    transients=900,
    asteroids=8,
)


@pytest.fixture
def verdict(tmp_path, database):
    index = write_survey(CONFIG, tmp_path)
    frames = [tmp_path / p for p in index[index.isTemplate].path]
    template_from_frames(tmp_path / "templates", "default", frames, load_instrument("simcam"))
    settings = Settings(
        database_uri=database._uri,
        data_roots=[tmp_path],
        template_dir=tmp_path / "templates",
        archive_dir=str(tmp_path / "alerts"),
        upload_dir=tmp_path / "u",
        ephemerides=tmp_path / "ephemerides.parquet",
    )
    ledger, processor = Ledger(database), Processor(settings)
    for r in index[~index.isTemplate].itertuples():
        message = {"instrument": "simcam", "science": r.path, "visit": int(r.visit), "detector": int(r.detector)}
        submit_visit(message, settings, ledger, read_facts)
    while (claim := ledger.claim("test", 600, 0)) is not None:
        assert processor.run(claim)["state"] == "done"
    alerts = []
    for path in sorted((tmp_path / "alerts").glob("*/*.avro")):
        with path.open("rb") as handle:
            alerts += list(fastavro.reader(handle))
    return judge(pd.read_parquet(tmp_path / "truth.parquet"), alerts, CONFIG.size), all_rows(
        database, "DiaForcedSource"
    )


def test_survey_is_complete_pure_and_unbiased(verdict):
    v, forced = verdict
    matched = v["matched"]
    print({k: x for k, x in v.items() if k != "matched"})
    assert v["n_bright"] >= 60
    assert v["completeness"] >= 0.95
    assert v["n_false"] / 8 * 16 <= 20  # 8 images of a sixteenth of 4096 x 4096
    assert v["single_object"] >= 0.99
    t = matched[(matched.trueKind == "transient") & np.isfinite(matched.psfFlux) & ~matched.isDipole]
    pull = (t.psfFlux - t.trueFlux) / t.psfFluxErr
    faint = pull[(t.snr < 20) & (t.snr > 7)]
    assert len(faint) >= 40
    assert 1.4826 * np.median(np.abs(faint - np.median(faint))) == pytest.approx(1.0, abs=0.2)  # n = 67: +-0.09
    bright = t[t.snr > 15]
    ratio = bright.psfFlux / bright.trueFlux
    weight = (bright.trueFlux / bright.psfFluxErr) ** 2
    print(
        len(bright),
        np.average(ratio, weights=weight),
        np.median(ratio),
        ratio.std() / np.sqrt(len(ratio)),
        np.sqrt(1 / np.sum(weight)),
    )
    assert np.average(ratio, weights=weight) == pytest.approx(1.0, abs=0.01)
    solar = matched[matched.trueKind == "asteroid"]
    if len(solar):
        assert solar.isSolar.mean() > 0.8  # known bodies found no objects
    assert len(forced) > 100
