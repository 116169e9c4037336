"""The base under the five tasks: PipelineTask plus the older task surface, ids, errors, metadata.

Imports: nothing of this project (knows no image and no database).
"""

from tasks.base import AlertTask, AlertTaskConfig, make_task
from tasks.errors import AlertProdError, CallerError, NoWork, TransientError
from tasks.ids import IdFactory, IdGenerator, IdPacker

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
