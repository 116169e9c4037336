"""What ties the tasks to Rubin's Butler: instruments, dimension records, formatters, and the pipelines for ``pipetask``.

Imports: ``association``, ``calibration``, ``diffim``, ``forced``, ``alerts``, ``exposure``, ``apdb``, ``tasks``. Adapters
only. Nothing of the service imports this room, but the commands ``alertprod butler`` and ``alertprod bps``.
"""

from tasks.storage_classes import register_storage_classes

register_storage_classes()
