"""Who reads the alert topic, and how far behind: what each consumer group has committed on the broker.

A group's offsets are asked for by a consumer that has its name and never joins it. The admin client has a call for it, but
an answer that the coordinator of the group is another ends the process there (librdkafka 2.15, its report 5040: the handler goes to the group
of a client that has none).
"""

from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from alerts.delivery.target import KafkaTarget, Refusals, typed_errors

__all__ = ["GroupLag", "committed_lag", "member_of_none", "reader_lags"]


@dataclass(frozen=True)
class GroupLag:
    """A consumer group: its state, members connected, and messages behind what it committed, by partition.

    Markers of transactions count as messages: a lag of a few can be none.
    """

    group: str
    state: str
    members: int
    lag: dict[int, int]

    @property
    def total(self) -> int:
        """Messages behind, over all partitions."""
        return sum(self.lag.values())


def reader_lags(target: KafkaTarget) -> list[GroupLag]:
    """Return the groups that have committed offsets on the alert topic, the furthest behind first.

    Raises
    ------
    BrokerUnavailable, BrokerRefused
        No broker answers in time; or it answers and refuses.
    """
    refusals, limit = Refusals(), target.timeout_s
    admin = AdminClient(target.settings(refusals))
    with typed_errors(admin, refusals, f"topic {target.topic}"):
        parts = _partitions(admin, target)
        ends = _offsets(admin, parts, OffsetSpec.latest(), limit)
        names = [g.group_id for g in admin.list_consumer_groups(request_timeout=limit).result().valid]
        committed = {name: offsets for name in names if (offsets := _committed_by(target, name, parts, refusals))}
        out = [_lag_of(admin, name, offsets, ends, limit) for name, offsets in committed.items()]
    return sorted(out, key=lambda g: (-g.total, g.group))


def member_of_none(target: KafkaTarget, group: str, refusals: Refusals) -> Consumer:
    """Return a consumer that asks for the offsets of a group, and never joins it."""
    return Consumer({**target.settings(refusals), "group.id": group, "enable.auto.commit": False})


def committed_lag(
    admin: AdminClient, asking: Consumer, target: KafkaTarget, refusals: Refusals
) -> dict[int, tuple[int, int]]:
    """Return (committed offset, messages behind it) of the group of `asking` by partition, as the broker has them.

    Where the group has committed nothing the offset is that of the first message there is; nothing is behind on a topic that
    is not there.

    Raises
    ------
    BrokerUnavailable, BrokerRefused
        No broker answers in time; or it answers and refuses.
    """
    limit = target.timeout_s
    with typed_errors(admin, refusals, f"topic {target.topic}"):
        if target.topic not in admin.list_topics(timeout=limit).topics:
            return {}
        parts = _partitions(admin, target)
        committed = _committed(asking, parts, limit)
        first = _offsets(admin, parts, OffsetSpec.earliest(), limit)
        offsets = first | {number: max(offset, first[number]) for number, offset in committed.items()}
        ends = _offsets(admin, parts, OffsetSpec.latest(), limit)
    return {number: (offset, max(ends[number] - offset, 0)) for number, offset in sorted(offsets.items())}


def _partitions(admin: AdminClient, target: KafkaTarget) -> list[TopicPartition]:
    metadata = admin.list_topics(target.topic, target.timeout_s).topics[target.topic]
    if metadata.error is not None:
        raise KafkaException(metadata.error)
    return [TopicPartition(target.topic, number) for number in sorted(metadata.partitions)]


def _offsets(admin: AdminClient, parts: list[TopicPartition], which: OffsetSpec, limit: float) -> dict[int, int]:
    answers = admin.list_offsets(dict.fromkeys(parts, which), request_timeout=limit)
    return {part.partition: future.result().offset for part, future in answers.items()}


def _committed_by(target: KafkaTarget, group: str, parts: list[TopicPartition], refusals: Refusals) -> dict[int, int]:
    asking = member_of_none(target, group, refusals)
    try:
        return _committed(asking, parts, target.timeout_s)
    finally:
        asking.close()


def _committed(asking: Consumer, parts: list[TopicPartition], limit: float) -> dict[int, int]:
    """Return the offsets that the group of a consumer has committed, by partition; a partition without one is left out."""
    answer = asking.committed(parts, limit)
    for part in answer:
        if part.error is not None:
            raise KafkaException(part.error)
    return {part.partition: part.offset for part in answer if part.offset >= 0}


def _lag_of(admin: AdminClient, name: str, offsets: dict[int, int], ends: dict[int, int], limit: float) -> GroupLag:
    group = admin.describe_consumer_groups([name], request_timeout=limit)[name].result()
    lag = {number: ends[number] - offset for number, offset in sorted(offsets.items())}
    return GroupLag(name, str(group.state.name).lower(), len(group.members), lag)
