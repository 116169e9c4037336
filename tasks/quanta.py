"""What a quantum's errors become for the framework that runs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lsst.pipe.base as pipeBase

from tasks.errors import AlertProdError, NoWork, OfTheImage

__all__ = ["QuantumFailure", "quantum_errors"]


class QuantumFailure(pipeBase.AlgorithmError):
    """An error of the science code or of the image, with what the framework keeps of it."""

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
        The science code failed, or the image cannot be used; ``pipetask`` counts it as failed unless ``--no-raise-on-partial-outputs`` says otherwise.
    """
    try:
        yield
    except Exception as raised:
        # what a formatter raises comes as the cause of an error of the Butler's
        error = raised if isinstance(raised, AlertProdError) else raised.__cause__
        if isinstance(error, NoWork):
            raise pipeBase.NoWorkFound(str(error)) from error
        if not (isinstance(error, AlertProdError) and isinstance(error, OfTheImage)):
            raise
        failure = QuantumFailure(error)
        failure.__cause__ = error
        raise pipeBase.AnnotatedPartialOutputsError.annotate(failure, task, *partial, log=task.log) from failure
