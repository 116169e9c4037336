"""The base under the five tasks: PipelineTask plus the older task surface, ids, errors, metadata.

Imports: nothing of this project (knows no image and no database). ``lsst.pipe.base`` is loaded when a task is first asked
for: processes that run none (API, relay) start without it.
"""

from typing import TYPE_CHECKING, Any

from tasks.errors import AlertProdError, CallerError, NoWork, TransientError
from tasks.ids import IdFactory, IdGenerator, IdPacker

if TYPE_CHECKING:
    from tasks.base import AlertTask, AlertTaskConfig, make_task

__all__ = [
    "AlertProdError",
    "AlertTask",
    "AlertTaskConfig",
    "CallerError",
    "IdFactory",
    "IdGenerator",
    "IdPacker",
    "NoWork",
    "TransientError",
    "make_task",
]


def __getattr__(name: str) -> Any:
    if name in ("AlertTask", "AlertTaskConfig", "make_task"):
        import tasks.base

        return getattr(tasks.base, name)
    raise AttributeError(f"module 'tasks' has no attribute {name!r}")
