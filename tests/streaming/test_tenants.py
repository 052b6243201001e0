"""Two shops on one Redis and one broker, with the same ids, see nothing of each other."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from pydantic import ValidationError

from infra.cli.status import gather
from infra.evaluation.fault_injection.foreign_batches import append_batch, bad_checksum, batch
from recsys.contracts.changes import ItemChange
from recsys.contracts.events import Event
from recsys.contracts.merges import UserMerge
from recsys.contracts.types import EventType, Item, Topic
from recsys.features.definitions import FEATURES
from recsys.items.item_table import read_items
from recsys.kafka_connection import KafkaConnection
from recsys.lake.lake import read_events
from recsys.lake.merges import read_merges
from recsys.settings import Settings
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore
from streaming.lake_writer.archive import Archiver
from streaming.log import KafkaSink, KafkaSource, create_topics, find_unreadable
from streaming.log.dead_letter import read_dead_letters, skip
from streaming.log.topic_check import check_topics, grow_topics
from streaming.settings import StreamSettings
from streaming.worker.claims import WorkerConfig
from streaming.worker.feature_worker import FeatureWorker

PARTITIONS = 2
NOW_MS = time.time_ns() // 1_000_000


@dataclass
class Shop:
    settings: StreamSettings
    store: RedisFeatureStore
    sink: KafkaSink

    def send(self, topic: Topic, key: str, value: bytes) -> None:
        self.sink.append(topic, key, value)
        self.sink.flush()

    def read(self) -> None:
        """Worker and archiver until both have read everything."""
        worker = FeatureWorker(self.store, self.sink, WorkerConfig(PARTITIONS, poll_s=0.05, check_s=60.0))
        worker.own(range(PARTITIONS))
        with ExitStack() as opened:
            sources = [KafkaSource(self.settings.kafka, group_id="feature-worker") for _ in range(2)]
            for source in sources:
                opened.enter_context(closing(source))
            archiver = Archiver(sources[1], self.settings.lake, partitions=PARTITIONS)
            for step in (lambda: worker.step(sources[0]), lambda: archiver.step(0.05)):
                _until_idle(step)
            archiver.flush()


def _until_idle(step: Callable[[], int]) -> None:
    idle = 0
    while idle < 8:
        idle = 0 if step() else idle + 1


@contextmanager
def opened(name: str, kafka: KafkaConnection, redis_url: str, home: Path) -> Iterator[Shop]:
    settings = StreamSettings(
        home=home / name,
        redis_url=redis_url,
        redis_namespace=name,
        kafka_bootstrap=kafka.bootstrap,
        kafka_topic_prefix=f"{name}.",
        partitions=PARTITIONS,
    )
    assert create_topics(settings.kafka, list(Topic), PARTITIONS) == [f"{name}.{topic}" for topic in Topic]
    assert create_topics(settings.kafka, list(Topic), PARTITIONS) == []
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(PARTITIONS), name)
    with closing(store), closing(KafkaSink(settings.kafka)) as sink:
        yield Shop(settings, store, sink)


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(120)
def test_two_shops_on_one_redis_and_one_broker(
    kafka: KafkaConnection, redis_url: str, tmp_path: Path
) -> None:
    with (
        opened("shop-a", kafka, redis_url, tmp_path) as a,
        opened("shop-b", kafka, redis_url, tmp_path) as b,
    ):
        for shop, item in ((a, "of a"), (b, "of b")):
            click = Event("same", EventType.CLICK, "u", item, NOW_MS)
            change, merge = ItemChange("i", Item("i", item), NOW_MS), UserMerge("anon", item, NOW_MS)
            shop.send(Topic.EVENTS, "u", msgspec.json.encode(click.to_dict()))
            shop.send(Topic.EVENTS, "u", f"no event {item}".encode())
            shop.send(Topic.ITEMS, "i", msgspec.json.encode(change.to_dict()))
            shop.send(Topic.USERS, merge.key, msgspec.json.encode(merge.to_dict()))
        a.read()
        assert not b.store.user("u").cells, "what has been read is the other shop's"
        b.read()
        for shop, item in ((a, "of a"), (b, "of b")):
            assert [visit.item_id for visit in shop.store.user("u").histories["seen"]] == [item]
            assert dict(shop.store.catalogue()) == {"i": Item("i", item)}
            assert shop.store.links("anon").owner == item
            lake = shop.settings.lake
            assert [event.item_id for event in read_events(lake)] == [item]
            assert [found.title for found in read_items(lake / "items" / "items.parquet")] == [item]
            assert [merge.into for merge in read_merges(lake)] == [item]
            with closing(KafkaSource(shop.settings.kafka)) as source:
                letters = [(letter.topic, letter.value) for letter in read_dead_letters(source)]
            assert letters == [("events", f"no event {item}".encode())]
            topics = gather(shop.settings, "http://127.0.0.1:9")["kafka"]["topics"]
            assert (topics["events"]["records"], topics["dead-letter"]["records"]) == (2, 1)
            assert not [
                d
                for d in check_topics(shop.settings.kafka, PARTITIONS, shop.settings.topic_rules)
                if d.what == "topic"
            ]
            assert grow_topics(shop.settings.kafka, PARTITIONS, only_check=True).keys() == {
                "events",
                "impressions",
            }

        # a batch that cannot be read stops the one shop, and the order to skip it is that shop's
        kafka_a = a.settings.kafka
        damaged = append_batch(kafka_a, Topic.EVENTS, 0, bad_checksum(batch("u", [b"{}"])))
        with closing(KafkaSource(kafka_a)) as source, closing(KafkaSource(b.settings.kafka)) as other:
            found = find_unreadable(source, Topic.EVENTS, 0, damaged)
            assert (found.topic, found.offset) == ("events", damaged)
            other.seek(Topic.EVENTS, 0, 0)
            _until_idle(lambda: len(other.poll(0.05, 10)))
            assert not other.unreadable()
            skip(a.sink, source.log_id(Topic.EVENTS), found)
            passed = source.poll(0.5, 10)
            while not passed:
                passed = source.poll(0.5, 10)
            assert [(record.topic, record.offset) for record in passed] == [("events", damaged)]


@pytest.mark.parametrize("prefix", ["a/b", "shop a", "é.", "x" * 101])
def test_a_prefix_is_what_kafka_takes_in_a_name(prefix: str) -> None:
    with pytest.raises(ValidationError, match="kafka_topic_prefix"):
        Settings(kafka_topic_prefix=prefix)
    assert Settings(kafka_topic_prefix="shop-a.").kafka.in_kafka(Topic.EVENTS) == "shop-a.events"
