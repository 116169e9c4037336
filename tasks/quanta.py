"""What a quantum's errors become for the framework that runs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lsst.pipe.base as pipeBase

from tasks.errors import AlertProdError, AlgorithmError, NoWork

__all__ = ["QuantumFailure", "quantum_errors"]


class QuantumFailure(pipeBase.AlgorithmError):
    """An error of the science code, with what the framework keeps of it."""

    def __init__(self, error: AlertProdError) -> None:
        super().__init__(str(error))
        self._metadata = {"code": error.code, "visit": error.visit, "detector": error.detector}

    @property
    def metadata(self) -> dict[str, Any]:
        """Code, visit and detector, where they are known."""
        return {k: v for k, v in self._metadata.items() if v is not None}


@contextmanager
def quantum_errors(task: pipeBase.Task, *partial: Any) -> Iterator[None]:
    """Turn our errors into those that the framework knows: nothing to do, or a failure whose outputs so far are kept.

    Parameters
    ----------
    task
        Its metadata say what failed.
    partial
        Outputs with ``metadata`` that are stored all the same, marked with the failure.

    Raises
    ------
    lsst.pipe.base.NoWorkFound
        There is nothing to do.
    lsst.pipe.base.AnnotatedPartialOutputsError
        The science code failed; ``pipetask`` counts it as failed unless ``--no-raise-on-partial-outputs`` says otherwise.
    """
    try:
        yield
    except NoWork as error:
        raise pipeBase.NoWorkFound(str(error)) from error
    except AlgorithmError as error:
        failure = QuantumFailure(error)
        failure.__cause__ = error
        raise pipeBase.AnnotatedPartialOutputsError.annotate(failure, task, *partial, log=task.log) from failure
