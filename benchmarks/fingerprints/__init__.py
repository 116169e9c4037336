"""Hashes of what fixed inputs become, to be compared between two trees: ``python -m benchmarks.fingerprints``."""
