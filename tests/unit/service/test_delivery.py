"""The role of the relay: what it does again when publishing fails."""

import threading

from alerts.errors import BrokerUnavailable
from service import delivery
from service.settings import Settings


def test_topics_are_looked_for_again_where_a_send_failed(monkeypatch, tmp_path):
    """A topic that is deleted under a relay is told as a send that takes too long: it is made again, without a restart."""
    stop, looked = threading.Event(), []

    class Failing:
        leads = False

        def __init__(self, *_):
            self.steps = 0

        def step(self):
            self.steps += 1
            if self.steps == 2:
                raise BrokerUnavailable("messages remaining")
            if self.steps == 4:
                stop.set()
            return 1

        def close(self):
            looked.append("closed")

    monkeypatch.setattr(delivery, "Relay", Failing)
    monkeypatch.setattr(delivery, "ensure_topics", lambda *_: looked.append("looked"))
    monkeypatch.setattr(delivery, "_RETRY_S", 0.0)
    delivery.run_relay(
        Settings(database_uri="postgresql://h/d", kafka_brokers="localhost:1", archive_dir=str(tmp_path)), stop
    )
    assert looked == ["looked", "looked", "closed"]
