"""``alertprod butler`` and ``alertprod bps`` at the terminal."""

import json

import pytest
from typer.testing import CliRunner

from exposure.camera import Camera, CameraDetector
from service.commands.butler import bps
from service.commands.main import app
from tests.support.exposures import make_exposure


def run(*arguments, status=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.output


def test_a_repository_is_filled_twice_and_says_what_was_new(tmp_path):
    repo, frame = tmp_path / "repo", tmp_path / "frame.fits"
    exposure = make_exposure((0, 0))
    exposure.visit_info = exposure.visit_info.__class__(**{**vars(exposure.visit_info), "visit": 1048575})
    exposure.write_fits(frame)
    (tmp_path / "bad.fits").write_text("no FITS")
    assert "simcam" in run("butler", "create", repo, "simcam")
    for new in (1, 0):
        said = json.loads(run("butler", "ingest", repo, "simcam", frame, "--json"))
        assert said == {"collection": "simcam/raw/all", "new": new, "known": 1 - new, "leftOut": 0}
    assert "1 left out" in run(
        "butler", "ingest", repo, "simcam", frame, tmp_path / "bad.fits", "--keep-going", status=1
    )
    Camera("simcam", {7: CameraDetector(7, "S7", (0, 0, 80, 60), (0.01, 0.01), (0.0, 0.0))}).write(tmp_path / "c.yaml")
    assert "simcam/calib: 1 new" in run("butler", "camera", repo, "simcam", tmp_path / "c.yaml")
    (tmp_path / "stars.csv").write_text("id,coord_ra,coord_dec\n1,0.1,0.2\n")
    assert "refcats/s: 1 new" in run("butler", "ingest-refcat", repo, tmp_path / "stars.csv", "--label", "s")


def test_bps_is_run_with_what_was_asked_for(monkeypatch, tmp_path):
    program = tmp_path / "bin" / "bps"
    monkeypatch.setattr(bps.sys, "prefix", str(tmp_path))
    with pytest.raises(Exception, match=r"alertprod\[batch\]"):
        run("bps", "submit", "x.yaml")
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@ $DAF_BUTLER_DIR" > "$DAF_BUTLER_DIR/said"\nexit 3\n')
    program.chmod(0o755)
    run("bps", "prepare", "--help", status=3)
    assert (tmp_path / "said").read_text() == f"prepare --help {tmp_path}\n"
    program.write_text("#!/bin/sh\necho Submit dir: /my night/submit\nexit 1\n")  # where BPS fails by itself
    assert "submit from a folder without a space (/my night/submit)" in run("bps", "submit", "x.yaml", status=1)


def of_a_task(expected, successful, *failed):
    bad = [{"data_id": {"instrument": "simcam", "visit": visit, "detector": 1}} for visit in failed]
    spoilt = {"data_id": {"visit": 1002, "detector": 0}, "exception": {"metadata": {"code": "no_good_pixels"}}}
    return {
        "n_expected": expected, "n_successful": successful, "failed_quanta": bad, "wonky_quanta": [],
        "exceptions": {"tasks.quanta.QuantumFailure": [spoilt]},
    }  # fmt: skip


@pytest.mark.parametrize(("first", "status"), [(of_a_task(4, 4), 0), (of_a_task(4, 2, 1003), 1)])
def test_a_batch_whose_jobs_failed_ends_with_a_status_that_says_so(first, status, monkeypatch, tmp_path):
    folder = tmp_path / "submit"
    folder.mkdir()
    (folder / "u_me.qg").touch()
    (folder / "provenance.qg").touch()
    (folder / "u_me_config.yaml").write_text("payload: {butlerConfig: $NIGHT/repo}\n")
    report = json.dumps({"tasks": {"subtractImages": first, "associateApdb": of_a_task(4, 2 + 2 * (status == 0))}})
    programs = {
        "bps": f"echo Submit dir: {folder}; echo more",
        "pipetask": f'[ "$*" = "report /n/repo {folder}/u_me.qg --force-v2 --full-output-filename $6" ] && echo \'{report}\' > $6',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setattr(bps.sys, "prefix", str(tmp_path))
    monkeypatch.setenv("NIGHT", "/n")
    assert "more" in run("bps", "submit", "x.yaml")  # jobs of another engine go on when the command ends
    (folder / "parsl_workflow.pickle").touch()
    for arguments in (["submit", "x.yaml"], ["restart", "--id", folder], ["restart", f"--id={folder}"]):
        said = run("bps", *arguments, status=status)
        assert ("1 of 8 quanta failed: subtractImages visit=1003 detector=1; 3 were not reached" in said) == bool(
            status
        )
        assert "images that failed: associateApdb visit=1002 detector=0 (no_good_pixels); subtractImages" in said
