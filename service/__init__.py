"""The service: HTTP API, Kafka ingest, worker, relay, settings, metrics, CLI. Wires everything; no maths, no SQL.

Imports: every other room (``simulation`` by the demo only, ``middleware`` by its commands only).
"""
