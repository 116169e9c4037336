"""What a quantum of association does beside associating: the APDB's address, variances, radii."""

from dataclasses import replace

import numpy as np
import pytest
from lsst.pipe.base import TaskMetadata

from association import DiaPipelineTask
from association.apdb_address import apdb_uri, has_password
from association.errors import AssociationError
from association.quantum import scale_variances, scaled
from exposure.psf import GaussianPsf
from tasks import CallerError, make_task
from tests.support.exposures import make_exposure

SECRET = "postgresql://me:secret@host/apdb"


@pytest.mark.parametrize("uri", [SECRET, "postgres://me:x@h/d", "postgresql://h/d?user=me&password=x"])
def test_a_password_is_in_no_configuration(uri):
    assert has_password(uri)
    with pytest.raises(CallerError, match="would be stored") as refused:
        make_task(DiaPipelineTask, {"apdb_config_url": uri})
    assert "secret" not in str(refused.value)
    assert not has_password("postgresql://me@host/apdb") and not has_password("/etc/me:x@file")


def test_the_apdb_is_named_by_a_file_or_by_the_environment(tmp_path, monkeypatch):
    for name in ("ALERTPROD_DATABASE_URI", "ALERTPROD_DATABASE_URI_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AssociationError, match="ALERTPROD_DATABASE_URI is not set"):
        apdb_uri("")
    monkeypatch.setenv("ALERTPROD_DATABASE_URI", "postgresql://h/one")
    assert apdb_uri("") == "postgresql://h/one"
    (tmp_path / "uri").write_text(SECRET + "\n")
    monkeypatch.setenv("ALERTPROD_DATABASE_URI_FILE", str(tmp_path / "uri"))
    assert apdb_uri("") == SECRET == apdb_uri(str(tmp_path / "uri"))
    assert apdb_uri("postgresql://h/two") == "postgresql://h/two"
    with pytest.raises(AssociationError, match="cannot be read"):
        apdb_uri(str(tmp_path / "none"))
    (tmp_path / "uri").write_text("mysql://me:secret@h/d")
    with pytest.raises(AssociationError, match="holds no URI") as refused:
        apdb_uri("")
    assert "secret" not in str(refused.value)


def test_variances_are_those_that_the_subtraction_left_in_memory():
    science, template = make_exposure(), make_exposure()
    before = science.variance.copy()
    metadata = TaskMetadata()
    metadata["quantum"] = TaskMetadata()
    metadata["subtractImages"] = TaskMetadata()
    metadata["subtractImages"]["scaleScienceVarianceFactor"] = 1.25
    scale_variances(science, template, metadata)
    assert np.array_equal(science.variance, before * np.float32(1.25), equal_nan=True)
    assert np.array_equal(template.variance, before, equal_nan=True)
    scale_variances(science, template, None)
    assert np.array_equal(science.variance, before * np.float32(1.25), equal_nan=True)


def test_radii_grow_with_wide_stars_unless_they_were_set(tmp_path, monkeypatch):
    monkeypatch.setenv("ALERTPROD_INSTRUMENTS", str(tmp_path))
    (tmp_path / "simcam.yaml").write_text("name: simcam\npixel_scale: 5.0\n")
    task = make_task(DiaPipelineTask, {"solarSystemMaxDistArcSeconds": 1.5})
    fitted = scaled(task, replace(make_exposure(), psf=GaussianPsf(2.0, 31)))
    # FWHM = 2.3548 sigma, at 5 arcsec/px, over the 1.25 arcsec that the defaults are for
    assert fitted.config.maxDistArcSeconds == pytest.approx(2.3548 * 2 * 5 / 1.25, rel=0.02)
    assert fitted.config.solarSystemMaxDistArcSeconds == 1.5 and task.config.maxDistArcSeconds == 1.0
    assert fitted.metadata is task.metadata
    assert scaled(make_task(DiaPipelineTask, {"scaleToSeeing": False}), make_exposure()).config.maxDistArcSeconds == 1.0
