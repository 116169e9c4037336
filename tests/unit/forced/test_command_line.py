"""The older command line of the tasks: data references in a file, ``--id``, the number of failed ids as exit status."""

import json

import numpy as np
import pandas as pd
import pytest

from association import DiaPipelineTask
from exposure import Exposure, PhotoCalib, SkyWcs, VisitInfo
from exposure.psf import GaussianPsf
from forced import ForcedPhotCcdFromDataFrameTask
from tasks.errors import CallerError

WCS = SkyWcs.tan((50.0, 50.0), (45.0, -10.0), [[-0.2 / 3600, 0], [0, 0.2 / 3600]])


def exposure(seed: int) -> Exposure:
    image = np.random.default_rng(seed).normal(0, 10, (100, 100)).astype(np.float32)
    return Exposure(
        image, np.full(image.shape, 100, np.float32), np.zeros(image.shape, np.int32), (0, 0), WCS, GaussianPsf(2.0, 25),
        PhotoCalib(2.0), VisitInfo(seed, 0, 61000.0, 30.0, "fixture"), "r",
    )  # fmt: skip


@pytest.fixture
def references(tmp_path):
    """Two good data references, two that cannot be done."""
    ra, dec = WCS.pixel_to_sky([30.0, 60.0], [40.0, 50.0])
    pd.DataFrame({"diaObjectId": [1, 2], "ra": ra, "dec": dec}).to_parquet(tmp_path / "r.parquet")
    rows = []
    for visit in (1, 2, 3, 4):
        path = tmp_path / f"e{visit}.fits"
        exposure(seed=visit).write_fits(path)
        if visit > 2:
            path.write_text("no FITS")
        rows.append(
            {
                "visit": visit, "detector": 0, "exposure": str(path), "references": str(tmp_path / "r.parquet"),
                "output": str(tmp_path / f"f{visit}.parquet"),
            }
        )  # fmt: skip
    (tmp_path / "refs.json").write_text(json.dumps(rows))
    return tmp_path / "refs.json"


def run(*args, **more):
    return ForcedPhotCcdFromDataFrameTask.parseAndRun([str(a) for a in args], **more)


def test_the_exit_status_is_the_number_of_failed_ids(references, tmp_path, capsys):
    for keep in (False, True):
        with pytest.raises(SystemExit) as ended:
            run(references, doReturnResults=keep)
        assert ended.value.code == 2
    assert 'failed on {"visit": 3, "detector": 0}' in capsys.readouterr().err
    assert len(pd.read_parquet(tmp_path / "f1.parquet")) == 2 and not (tmp_path / "f3.parquet").exists()
    done = run(references, "--noExit")
    assert [r.exitStatus for r in done.resultList] == [0, 0, 1, 1] and not hasattr(done.resultList[0], "result")
    with pytest.raises(Exception, match=r"e3\.fits"):
        run(references, "--doraise", "--id", "visit=3")


def test_ids_choose_and_the_config_is_kept(references, tmp_path):
    done = run(
        references,
        "--id",
        "visit=1..2",
        "ccd=0",
        "--output",
        tmp_path / "o",
        "-c",
        "doApCorr=False",
        doReturnResults=True,
    )
    assert [r.dataRef["visit"] for r in done.resultList] == [1, 2]
    assert set(done.resultList[0].result.measCat.diaObjectId) == {1, 2}
    assert "doApCorr=False" in (tmp_path / "o" / "forcedPhotCcdFromDataFrame_config.py").read_text()
    assert (tmp_path / "o" / "1_0" / "forcedPhotCcdFromDataFrame_metadata.json").exists()
    with pytest.raises(CallerError, match="differs"):
        run(references, "--id", "visit=1", "--output", tmp_path / "o")


@pytest.mark.parametrize(
    ("args", "visits"),
    [
        (["FILE", "--id=visit=1"], [1]),
        (["--id=visit=2", "FILE"], [2]),
        (["--id", "visit=1", "--", "FILE"], [1]),
        (["FILE", "--id", "visit=1", "ccd=0", "--id", "visit=2"], [1, 2]),  # one or the other
        (["FILE", "--id", "visit=1..4:3"], [1, 4]),
        (["FILE", "--id"], [1, 2, 3, 4]),
        (["FILE", "-L", "error", "--id=visit=1^3"], [1, 3]),
        (["FILE", "--id", "visit=9"], []),
    ],
)
def test_ids_are_given_in_every_usual_way(references, args, visits, monkeypatch, capsys):
    done: list[int] = []
    monkeypatch.setattr(ForcedPhotCcdFromDataFrameTask, "runDataRef", lambda task, inputs: done.append(inputs))
    result = run(*[references if a == "FILE" else a for a in args])
    assert [r.dataRef["visit"] for r in result.resultList] == visits and len(done) == len(visits)
    assert ("nothing to do" in capsys.readouterr().err) == (visits == [])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--id", "tract=1"], "not every data reference"),
        (["--id", "patch=1"], "expected visit="),
        (["--id", "visit=1", "visit=2"], "visit twice"),
        (["--id", "visit=1", "refs.json"], "refs.json: .* go before --id"),
        (["-L", "loud"], "no level"),
        (["-c", "x=1"], "no field 'x'"),
    ],
)
def test_what_cannot_be_understood_is_said_before_anything_runs(references, args, says):
    with pytest.raises(CallerError, match=says):
        run(references, *args)


def test_a_file_without_references_and_a_task_without_are_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(CallerError, match="no list of data references"):
        run(tmp_path / "x.json")
    with pytest.raises(CallerError, match="data references is missing"):
        run("-L", "debug")
    with pytest.raises(CallerError, match="pipetask run"):
        DiaPipelineTask.parseAndRun([])
