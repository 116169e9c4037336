"""Who reads the alert topic, and how far behind: what each consumer group has committed on the broker."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from alerts.delivery.target import KafkaTarget, Refusals, typed_errors

__all__ = ["GroupLag", "committed_lag", "reader_lags"]


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
        offsets = {name: _committed(target, name, parts, refusals) for name in names}
        out = [_lag_of(admin, name, found, ends, limit) for name, found in offsets.items() if found]
    return sorted(out, key=lambda g: (-g.total, g.group))


def committed_lag(
    admin: AdminClient, target: KafkaTarget, group: str, refusals: Refusals
) -> dict[int, tuple[int, int]]:
    """Return (committed offset, messages behind it) of a group by partition, as the broker has them.

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
        committed = _committed(target, group, parts, refusals)
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


def _committed(target: KafkaTarget, group: str, parts: list[TopicPartition], refusals: Refusals) -> dict[int, int]:
    """Return the offsets that a group has committed, by partition; a partition without one is left out.

    A consumer that subscribes to nothing asks: it joins no group. An admin client that asks the same dies by a segmentation
    fault where the answer is an error of the coordinator (librdkafka 2.15, its report 5040).
    """
    with _reader(target, group, refusals) as reader:
        answer = reader.committed(parts, timeout=target.timeout_s)
    for part in answer:
        if part.error is not None:
            raise KafkaException(part.error)
    return {part.partition: part.offset for part in answer if part.offset >= 0}


@contextmanager
def _reader(target: KafkaTarget, group: str, refusals: Refusals) -> Iterator[Consumer]:
    reader = Consumer({**target.settings(refusals), "group.id": group, "enable.auto.commit": False})
    try:
        yield reader
    finally:
        reader.close()


def _lag_of(admin: AdminClient, name: str, offsets: dict[int, int], ends: dict[int, int], limit: float) -> GroupLag:
    group = admin.describe_consumer_groups([name], request_timeout=limit)[name].result()
    lag = {number: ends[number] - offset for number, offset in sorted(offsets.items())}
    return GroupLag(name, str(group.state.name).lower(), len(group.members), lag)
