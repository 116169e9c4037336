"""What a quantum's errors become for the framework."""

from types import SimpleNamespace

import pytest
from lsst.pipe.base import AnnotatedPartialOutputsError, NoWorkFound, TaskMetadata

from tasks import AlertTask, CallerError, NoWork, make_task
from tasks.errors import AlgorithmError, OfTheImage
from tasks.quanta import quantum_errors


def test_nothing_to_do_is_said_as_the_framework_knows_it():
    with pytest.raises(NoWorkFound, match="visit 3, detector 4: no template"), quantum_errors(make_task(AlertTask)):
        raise NoWork("no template", visit=3, detector=4)


def test_a_failure_of_the_science_is_kept_in_the_metadata_of_task_and_outputs():
    task, output = make_task(AlertTask), SimpleNamespace(metadata=TaskMetadata())
    with pytest.raises(AnnotatedPartialOutputsError) as raised, quantum_errors(task, output):
        raise AlgorithmError("too few stars", visit=17122009979000, detector=4)
    assert isinstance(raised.value.__cause__.__cause__, AlgorithmError)
    for metadata in (task.metadata, output.metadata):
        assert metadata["failure"]["message"] == "visit 17122009979000, detector 4: too few stars"
        assert metadata["failure"]["metadata"].to_dict() == {
            "code": "algorithm",
            "visit": 17122009979000,
            "detector": 4,
        }


class Unreadable(CallerError, OfTheImage):
    code = "unreadable"


def test_what_is_wrong_with_one_image_is_its_failure_however_it_comes():
    for wrapped in (False, True):  # what a formatter raises is the cause of a Butler's ValueError
        task = make_task(AlertTask)
        with pytest.raises(AnnotatedPartialOutputsError), quantum_errors(task):
            try:
                raise Unreadable("cut short", visit=1, detector=2)
            except Unreadable as error:
                if not wrapped:
                    raise
                raise ValueError("Failure from formatter") from error
        assert task.metadata["failure"]["metadata"].to_dict() == {"code": "unreadable", "visit": 1, "detector": 2}


def test_other_errors_pass_as_they_are():
    with pytest.raises(CallerError, match="wrong"), quantum_errors(make_task(AlertTask)):
        raise CallerError("wrong")
