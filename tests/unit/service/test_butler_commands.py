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
