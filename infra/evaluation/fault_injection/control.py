"""The control of the stream's fault-injection test: a feature worker as usually written. It must come out wrong.

It applies events one by one; Kafka stores its offsets, committed once a second after the fact. So what a crash replays
is counted twice, what Redis forgets in a crash is lost, an event that was sent twice counts twice, and a frozen worker
continues to write to partitions that it has lost.
"""

import contextlib
import math
import os
import time
from typing import Any

import msgspec
import redis
from kafka import KafkaConsumer, TopicPartition

from infra.signals import stop_event
from recsys.contracts.errors import InvalidEvent, Unavailable
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import Event, parse_reported
from recsys.contracts.impression_record import read_impression
from recsys.contracts.impressions import impression_events
from recsys.contracts.state import Op
from recsys.contracts.types import Topic
from recsys.features.aggregates import Entity
from recsys.features.definitions import FEATURES
from recsys.store.base import StoreConfig
from recsys.store.encoding import pack_visit
from recsys.store.redis import RedisFeatureStore
from streaming.log.connection import client_options
from streaming.settings import StreamSettings

GROUP = "control"


class UnguardedStore(RedisFeatureStore):
    """Writes the real store's keys without epochs, offsets and event ids."""

    def add(self, events: list[Event]) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            extremes: dict[tuple[str, bytes], tuple[Op, int]] = {}
            for event in events:
                folded = FEATURES.fold(event)
                partition = partition_of(event.user_id, self._config.partitions)
                user = self._key(partition, "u", event.user_id)
                item = self._key(partition, "i", event.item_id)
                deltas = [(Entity.USER, user, delta) for delta in folded.user]
                changes = folded.of_item(set())  # no memory of who has counted
                deltas += [(Entity.ITEM, item, delta) for delta in changes]
                for entity, key, (name, _, amount) in deltas:
                    cell, op = self._encoder.field(entity, name)
                    if op is Op.ADD:
                        pipe.hincrby(key, cell, amount)
                    else:
                        known = extremes.get((key, cell), (op, amount))[1]
                        extremes[key, cell] = op, (max if op is Op.MAX else min)(known, amount)
                if changes:
                    pipe.zadd(self._key(partition, "items"), {event.item_id: 2**52})
                for history, visit in folded.visits:
                    if history.name in self._stored:
                        key = self._key(partition, "h", history.name, event.user_id)
                        pipe.zadd(key, {pack_visit(visit): visit.event_time_ms})
                        pipe.zremrangebyrank(key, 0, -history.size - 1)
            pipe.execute()
        self._put_extremes(extremes)

    def _put_extremes(self, extremes: dict[tuple[str, bytes], tuple[Op, int]]) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for key, cell in extremes:
                pipe.hget(key, cell)
            stored = pipe.execute()
            for ((key, cell), (op, amount)), old in zip(extremes.items(), stored, strict=True):
                if old is None or (amount > int(old) if op is Op.MAX else amount < int(old)):
                    pipe.hset(key, cell, amount)
            pipe.execute()


def main() -> None:
    """Run until SIGTERM."""
    settings, stop = StreamSettings(), stop_event()
    store = UnguardedStore(settings.redis_url.get_secret_value(), FEATURES, StoreConfig(settings.partitions))
    consumer = KafkaConsumer(
        **client_options(settings.kafka),
        group_id=GROUP,
        auto_offset_reset="earliest",
        enable_auto_commit=True,
        auto_commit_interval_ms=1_000,
    )
    named = settings.kafka.named
    name, shared_at = f"control-{os.getpid()}", -math.inf
    while not stop.is_set():
        if time.monotonic() - shared_at > 1.0:
            shared_at = time.monotonic()
            with contextlib.suppress(Unavailable):
                _share(store, consumer, name, settings)
        if not consumer.assignment():
            time.sleep(0.1)
            continue
        for records in consumer.poll(timeout_ms=200, max_records=500).values():
            events = [e for record in records for e in _parse(named(record.topic), record.value)]
            while not stop.is_set():
                try:
                    store.add(events)
                    break
                except redis.RedisError:
                    time.sleep(0.2)
    consumer.close()
    store.leave(name)


def _share(store: UnguardedStore, consumer: Any, name: str, settings: StreamSettings) -> None:
    """Share the partitions as our workers do; each continues at Kafka's committed offset."""
    living = store.workers(name, 5_000)
    numbers = [n for n in range(settings.partitions) if living[n % len(living)] == name]
    topics = map(settings.kafka.in_kafka, (Topic.EVENTS, Topic.IMPRESSIONS))
    mine = {TopicPartition(topic, n) for topic in topics for n in numbers}
    if mine != consumer.assignment():
        if consumer.assignment():
            consumer.commit()
        consumer.assign(sorted(mine))
        print("claimed", len(mine), flush=True)  # noqa: T201 - the test waits for it


def _parse(topic: str, value: bytes) -> list[Event]:
    try:
        if topic == Topic.IMPRESSIONS:
            return impression_events(read_impression(value))
        return [parse_reported(msgspec.json.decode(value))]
    except (msgspec.DecodeError, InvalidEvent):
        return []


if __name__ == "__main__":
    main()
