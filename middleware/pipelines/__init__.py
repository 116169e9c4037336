"""Pipelines for ``pipetask``: ``-p resource://middleware.pipelines/AP.yaml``, ``DRP.yaml``."""
