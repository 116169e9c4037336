"""A camera's class, made from its instrument file."""

import pickle

import pytest
from lsst.pipe.base import Instrument as ButlerInstrument

import middleware.instrument
from association import DiaPipelineConfig
from exposure.errors import InstrumentError
from middleware.instrument import class_name, instrument_class


def test_the_name_of_an_instrument_file_is_a_class():
    camera = ButlerInstrument.from_string("middleware.instrument.decam")
    assert camera.getName() == "decam" and type(camera) is instrument_class("decam")
    assert pickle.loads(pickle.dumps(type(camera))) is type(camera)
    assert camera.rules.name == "decam"
    with pytest.raises(AttributeError, match="no instrument file"):
        middleware.instrument.nocam  # noqa: B018
    with pytest.raises(RuntimeError, match="nocam"):
        ButlerInstrument.from_string("middleware.instrument.nocam")


@pytest.mark.parametrize("name", ["with-hyphen", "a.b", "1cam", "c" * 60, ""])
def test_a_name_that_a_registry_cannot_hold_is_refused(name):
    with pytest.raises(InstrumentError, match="cannot be registered"):
        class_name(name)


def test_a_users_file_is_found_and_its_task_config_is_applied(tmp_path, monkeypatch):
    monkeypatch.setenv("ALERTPROD_INSTRUMENTS", str(tmp_path))
    (tmp_path / "widecam.yaml").write_text(
        "name: widecam\ntask_config: {DiaPipelineTask: {maxDistArcSeconds: 4.5}, ImageDifferenceTask: {doWriteScore: true}}\n"
    )
    config = DiaPipelineConfig()
    instrument_class("widecam")().applyConfigOverrides("associateApdb", config)
    assert config.maxDistArcSeconds == 4.5
