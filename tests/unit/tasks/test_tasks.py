"""tasks/: ids, errors, the task base."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffim import ImageDifferenceTask
from tasks import AlertTask, CallerError, IdFactory, IdGenerator, IdPacker, make_task
from tasks.errors import TransientError


def test_packer_reproduces_the_published_example():
    packer = IdPacker(10000, 99, 8)
    assert packer.data_bits == 20
    assert packer.catalog_id(42, 12, 2) == 2101322
    assert packer.ids(42, 12, 1, release=2)[0] == 2310427972701519873


def test_forced_example_ids():
    assert IdPacker(10, 5, 64).ids(1, 2, 1)[0] == 15762598695796737


@given(
    visit=st.integers(0, 9999), detector=st.integers(0, 98), release=st.integers(0, 7), counter=st.integers(1, 10**6)
)
def test_ids_unpack_exactly(visit, detector, release, counter):
    packer = IdPacker(10000, 99, 8)
    identifier = int(packer.ids(visit, detector, 1, release, start=counter)[0])
    assert packer.unpack(identifier) == (release, visit, detector, counter)


def test_packer_refuses_what_does_not_fit():
    packer = IdPacker(10, 5, 64)
    with pytest.raises(CallerError, match="detector 5 is outside"):
        packer.catalog_id(1, 5)
    with pytest.raises(CallerError, match="do not fit"):
        packer.ids(1, 2, 2, start=(1 << packer.counter_bits) - 1)


def test_generator_counts_on():
    generator = IdGenerator(IdPacker(10, 5), 1, 2)
    first, second = generator.take(3), generator.take(2)
    assert np.array_equal(np.diff(np.concatenate([first, second])), np.ones(4))


def test_old_factory_keeps_to_its_bits():
    factory = IdFactory(5, 62)
    assert factory() == (5 << 1) | 1
    with pytest.raises(CallerError):
        factory()
    assert factory._last == 1  # not advanced
    with pytest.raises(CallerError):
        IdFactory(8, 3)
    factory = IdFactory(3, 10)
    factory.notify((3 << 53) | 41)
    assert factory() == (3 << 53) | 42
    with pytest.raises(CallerError):
        factory.notify(7)


def test_errors_name_the_image_and_say_whether_to_retry():
    error = CallerError("no WCS").at(12, 3)
    assert str(error) == "visit 12, detector 3: no WCS"
    assert error.as_dict() == {"code": "bad_input", "message": str(error), "retriable": False}
    assert TransientError("x").retriable


def test_make_task_freezes_and_checks_the_config(tmp_path):
    task = make_task(ImageDifferenceTask, {"detectionThreshold": 4.0})
    assert task.config.detectionThreshold == 4.0
    with pytest.raises(Exception, match=r"frozen|Cannot modify"):
        task.config.detectionThreshold = 3.0
    for wrong in ({"nosuch": 1}, {"mode": "sideways"}, {"kernelSize": 20}):
        with pytest.raises(CallerError):
            make_task(ImageDifferenceTask, wrong)
    task.put("count", np.int64(3))
    task.put("nothing", None)
    task.put("yes", np.bool_(True))
    assert task.metadata["count"] == 3
    assert "nothing" not in task.metadata
    with task.step("work"):
        pass
    assert any(name.startswith("workEndCpuTime") for name in task.metadata)


def test_stored_config_is_guarded(tmp_path):
    make_task(ImageDifferenceTask).writeConfig(tmp_path)
    make_task(ImageDifferenceTask).writeConfig(tmp_path)
    changed = make_task(ImageDifferenceTask, {"detectionThreshold": 6.0})
    with pytest.raises(CallerError, match="differs"):
        changed.writeConfig(tmp_path)
    changed.writeConfig(tmp_path, clobber=True)
    assert (tmp_path / "imageDifference_config.py~1").exists()


def test_provenance_is_compared_before_it_is_written(tmp_path):
    import json

    from lsst.pipe.base import TaskError

    from calibration.joint.config import JointcalConfig
    from calibration.joint.task import JointcalTask
    from tasks.provenance import ProvenanceMismatch, write_together, write_versions

    def task(cut: float) -> JointcalTask:
        config = JointcalConfig()
        config.matchCut = cut
        return JointcalTask(config=config)

    task(3.0).writeConfig(tmp_path)
    task(3.0).writeConfig(tmp_path)  # equal: nothing happens
    stored = (tmp_path / "jointcal_config.py").read_text()
    with pytest.raises(TaskError, match=r"matchCut: 3\.0 -> 4\.0.*--clobber-config"):
        task(4.0).writeConfig(tmp_path)
    assert (tmp_path / "jointcal_config.py").read_text() == stored
    task(4.0).writeConfig(tmp_path, clobber=True)
    task(5.0).writeConfig(tmp_path, clobber=True)
    assert (tmp_path / "jointcal_config.py~1").read_text() == stored
    assert "4.0" in (tmp_path / "jointcal_config.py~2").read_text()
    task(6.0).writeConfig(tmp_path, clobber=True, doBackup=False)
    assert not (tmp_path / "jointcal_config.py~3").exists()

    versions = tmp_path / "packages.json"
    write_versions(versions, {"a": "1", "b": "2"}, clobber=False, backup=True)
    write_versions(versions, {"b": "2", "c": "3"}, clobber=False, backup=True)
    assert json.loads(versions.read_text()) == {"a": "1", "b": "2", "c": "3"}
    with pytest.raises(ProvenanceMismatch, match=r"Version mismatch \(b: 2 vs 9\).*--clobber-versions"):
        write_versions(versions, {"b": "9"}, clobber=False, backup=True)

    first, second = tmp_path / "x.json", tmp_path / "y.json"
    write_together({first: '{"k": "int"}', second: '{"k": "int"}'}, clobber=False, backup=True)
    with pytest.raises(ProvenanceMismatch, match=r"y\.json: k: int -> float"):
        write_together({first: '{"k": "int"}', second: '{"k": "float"}'}, clobber=False, backup=True)
    with pytest.raises(ProvenanceMismatch, match="x"):
        write_together({first: '{"k": "float"}', tmp_path / "z.json": "{}"}, clobber=False, backup=True)
    assert not (tmp_path / "z.json").exists()  # nothing half-written


@pytest.mark.parametrize("sizes", [(10**15, 256, 64), (10**17, 256, 64), (0, 1, 64), (1, 1, 0)])
def test_id_sizes_that_overflow_are_refused(sizes):
    with pytest.raises(
        CallerError, match=f"n_visits {sizes[0]}, n_detectors {sizes[1]}, n_releases {sizes[2]} do not fit"
    ):
        IdPacker(*sizes)


def test_of_two_runs_that_begin_at_once_with_different_configs_one_is_refused(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    from tasks.provenance import ProvenanceMismatch, write_config

    def attempt(folder, number, barrier):
        barrier.wait()
        try:
            write_config(folder / "config.py", f"config.n={number}\n", clobber=False, backup=True)
        except ProvenanceMismatch:
            return None
        return number

    with ThreadPoolExecutor(4) as pool:
        for turn in range(30):
            barrier, folder = Barrier(4), tmp_path / str(turn)
            accepted = [n for n in pool.map(lambda n: attempt(folder, n, barrier), range(4)) if n is not None]  # noqa: B023
            assert len(accepted) == 1
            assert (folder / "config.py").read_text() == f"config.n={accepted[0]}\n"
            assert [p.name for p in folder.iterdir()] == ["config.py"]


def test_stored_files_that_cannot_be_read_are_task_errors_and_metadata_are_whole(tmp_path, caplog):
    from lsst.pipe.base import TaskError

    task = make_task(AlertTask)
    (tmp_path / "alertTask_config.py").write_bytes(b"\xff\xfe")
    (tmp_path / "packages.json").write_text("{")
    for write in (task.writeConfig, task.writePackageVersions):
        with pytest.raises(TaskError, match="clobber"):
            write(tmp_path)
    task.writeMetadata(tmp_path)
    before = (tmp_path / "alertTask_metadata.json").read_text()
    task.put("x", 1)
    (tmp_path / "file").write_text("")
    task.writeMetadata(tmp_path / "file")  # no folder: a warning
    assert "cannot be written" in caplog.text
    assert (tmp_path / "alertTask_metadata.json").read_text() == before
