"""Measurements: ``python -m benchmarks.NAME --json`` prints one JSON object a case. Never part of the tests."""
