"""What goes wrong with the files of a visit, as typed errors that name them: nothing of it is a fault of the program."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from exposure.errors import FitsUnreadable
from exposure.io.opening import split_choice
from service.failures import typed
from service.intake.message import local_path
from service.subprocesses.limits import OutOfTime, cpu_allowance_s, cpu_limited
from tasks.errors import AlertProdError, AlgorithmError

__all__ = ["fault_of", "opening"]

_URIS = ("science", "psf", "mask", "variance", "wcs")
_LIBRARIES = ("astropy", "cv2", "numpy", "pandas", "scipy", "sep")
_MOST_TEXT = 300  # characters of what a library says


@contextmanager
def opening(message: Mapping[str, Any], roots: list[Path]) -> Iterator[None]:
    """Open the files of a visit message in the body: within the processor time that their sizes allow.

    Raises
    ------
    FitsUnreadable
        They took more; or a library raised an error of its own.
    """
    name = Path(message["science"]).name
    files = [split_choice(local_path(message[key], roots))[0] for key in _URIS if message.get(key)]
    allowed = cpu_allowance_s(files)
    try:
        if threading.current_thread() is threading.main_thread():
            with cpu_limited(allowed):
                yield
        else:  # signals are the main thread's
            yield
    except OutOfTime:
        raise FitsUnreadable(f"{name} takes more than {allowed:.0f} s of processor time to open: refused") from None
    except (AlertProdError, MemoryError, OSError):
        raise
    except Exception as error:  # what libraries raise on broken files is their own affair
        raise FitsUnreadable(f"{name} cannot be used: {_said(error)}") from error


def fault_of(error: Exception, message: Mapping[str, Any], step: str) -> Exception:
    """Return the typed error of what a step of the processing raised; the error itself where it is a fault of the program."""
    if isinstance(error, AlertProdError | MemoryError):
        return error
    library = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError) or library in ("psycopg", "sqlalchemy"):
        return typed(error)
    if isinstance(error, ArithmeticError | np.linalg.LinAlgError | ValueError | IndexError) or library in _LIBRARIES:
        return AlgorithmError(f"{Path(message['science']).name}: the step {step} failed: {_said(error)}")
    return error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:_MOST_TEXT]}"
