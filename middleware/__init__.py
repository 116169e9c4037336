"""What ties the tasks to Rubin's Butler: instruments, dimension records, formatters, and the pipelines for ``pipetask``.

Imports: ``apdb``, ``diffim``, ``exposure``, ``tasks``. Adapters only: the pipelines name the tasks. Of the service nothing
but the commands ``alertprod butler`` loads this room. This module loads nothing, so that a job of a batch starts quickly.
"""
