"""A broker that has never had a consumer group answers with errors of the coordinator: who asks gets a typed error or an answer.

An admin client that asked for offsets then ended its process by a segmentation fault: the asking process must live.
"""

import time
from contextlib import closing

from confluent_kafka.admin import AdminClient

from alertprod_client.errors import BrokerUnavailable
from alerts.delivery.lag import committed_lag, member_of_none
from alerts.delivery.target import KafkaTarget, Refusals, ensure_topics
from service.local.embedded_kafka import EmbeddedKafka


def test_offsets_of_groups_that_a_new_broker_has_never_seen(server_dir):
    with EmbeddedKafka(server_dir / "kafka-fresh") as kafka:
        target, refusals = KafkaTarget(kafka.brokers, "visits", timeout_s=5.0), Refusals()
        ensure_topics(target, 2, progress=False)
        admin = AdminClient(target.settings(refusals))
        deadline, number, answers = time.monotonic() + 60, 0, []
        while len(answers) < 5 and time.monotonic() < deadline:
            number += 1
            try:
                with closing(member_of_none(target, f"unseen-{number}", refusals)) as asking:
                    answers.append(committed_lag(admin, asking, target, refusals))
            except BrokerUnavailable:
                continue
    assert answers == [{0: (0, 0), 1: (0, 0)}] * 5
