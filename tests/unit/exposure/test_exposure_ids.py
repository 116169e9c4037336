"""Ids of an exposure: those of its instrument's file, refused when it is read where they overflow, else a common layout."""

from dataclasses import replace

import numpy as np
import pytest

from exposure.errors import InstrumentError
from exposure.exposure_ids import exposure_number, id_generator
from exposure.instrument import find_instrument, load_instrument
from tasks.errors import CallerError
from tests.support.exposures import make_exposure


def numbered(visit, detector, instrument="no such camera"):
    e = make_exposure()
    e.visit_info = replace(e.visit_info, visit=visit, detector=detector, instrument=instrument)
    return e


def test_exposures_of_an_unknown_camera_have_ids_that_never_meet():
    keys = [
        (v, d) for v in (1, 2, 2**24 - 1, 2**24, 17122009979, 2**37, 2026112800123) for d in (0, 1, 62, 999, 1000, 1023)
    ]
    ids = np.concatenate([id_generator(numbered(*key)).take(700) for key in keys])
    assert np.unique(ids).size == ids.size
    assert ids.min() > 0
    assert len({exposure_number(numbered(*key)) for key in keys}) == len(keys)
    assert id_generator(numbered(7, 3)).take(300_000).size == 300_000
    for key in ((1, 1024), (2**41, 0)):
        with pytest.raises(CallerError, match="set the id sizes"):
            id_generator(numbered(*key))


def test_exposures_of_a_known_camera_have_the_ids_of_its_file():
    rules = load_instrument("decam")
    ids = id_generator(numbered(17122009979, 61, "decam")).take(3)
    assert ids.tolist() == rules.packer().ids(17122009979, 61, 3).tolist()
    assert find_instrument("decam") == rules
    assert find_instrument("no such camera") is find_instrument("") is find_instrument("../decam.yaml") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [("n_visits: 1000000000000000, n_detectors: 256", "do not fit in 63 bits"),
     ("n_visits: 100000000000, n_detectors: 100000", "leave 3 of 63 bits")],
)  # fmt: skip
def test_sizes_that_overflow_are_refused_when_the_file_is_read(tmp_path, text, said):
    file = tmp_path / "camera.yaml"
    file.write_text(f"name: camera\nids: {{{text}}}\n", encoding="utf-8")
    with pytest.raises(InstrumentError, match=said):
        load_instrument(str(file))


def test_numbers_of_the_longer_rule_fit_where_the_file_sets_no_bound(tmp_path):
    file = tmp_path / "camera.yaml"
    file.write_text("name: camera\nvisit_rule: yyyymmddsssss\n", encoding="utf-8")
    assert load_instrument(str(file)).packer().ids(2026112886399, 0, 600).size == 600
