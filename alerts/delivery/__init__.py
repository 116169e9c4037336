"""Alerts to Kafka: topics, schema registry, relay, reconciliation, replay, lag of readers."""
