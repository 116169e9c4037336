"""What ties the tasks to Rubin's Butler: registration of our data types and the pipelines for ``pipetask``.

Imports: ``association``, ``calibration``, ``diffim``, ``forced``, ``alerts``, ``exposure``, ``apdb``, ``tasks``. Adapters
only.
"""
