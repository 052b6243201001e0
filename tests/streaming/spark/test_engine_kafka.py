"""Both engines on real servers: they hand over in both directions, a driver is killed, and the bits are those of a
worker alone."""

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from infra.evaluation.fault_injection.stream import StreamDrill, drill_records
from infra.evaluation.fault_injection.verify import differences, expected_states
from infra.local.apache_kafka import ApacheKafka
from infra.local.children import recsys_command
from infra.local.memory_kafka import MemoryKafka
from infra.local.process import ChildProcess
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.types import Item, Topic, User
from recsys.features.definitions import FEATURES
from recsys.store.redis import RedisFeatureStore
from streaming.log import KafkaSink, KafkaSource, create_topics
from streaming.log.dead_letter import read_dead_letters
from streaming.settings import StreamSettings
from streaming.spark.process import main as spark_main
from streaming.worker.claims import TOPICS
from streaming.worker.process import GROUP, open_store
from tests.streaming.worker.test_feature_worker import wait_for
from tests.streaming.worker.test_feature_worker_kafka import Worker

PARTITIONS = 4
EVERY = [(topic, number) for topic in TOPICS for number in range(PARTITIONS)]
PATIENCE_S = 240.0


class Rig:
    """A log with all that the engines must handle, and a store that they share."""

    def __init__(self, settings: StreamSettings, opened: ExitStack) -> None:
        self.settings, self.opened = settings, opened
        self.sink = opened.enter_context(closing(KafkaSink(settings.kafka)))
        self.source = opened.enter_context(closing(KafkaSource(settings.kafka)))
        self.store = opened.enter_context(closing(open_store(settings)))
        self._records = drill_records(StreamDrill(seed=3, users=300, items=100))
        self._changes = itertools.count()

    def send(self, count: int) -> None:
        """Events and lists, some of them twice, late or malformed; items and users."""
        for topic, key, value in itertools.islice(self._records, count):
            self.sink.append(topic, key, value)
        for n in itertools.islice(self._changes, 20):
            name, at = f"i{n % 30}", 1_700_000_000_000 + n
            put = ItemChange(name, None if n % 7 == 0 else Item(name, f"Film {n}"), at)
            self.sink.append(Topic.ITEMS, name, msgspec.json.encode(put.to_dict()))
            user = UserChange(f"user-{n}", User(f"user-{n}", {"age": str(n)}), at)
            self.sink.append(Topic.USERS, f"user-{n}", msgspec.json.encode(user.to_dict()))
        self.sink.flush(60)

    def send_transactions(self) -> None:
        """One that is taken back, and one that is not."""
        settings = {"bootstrap_servers": self.settings.kafka_bootstrap, "transactional_id": "etl"}
        with closing(KafkaProducer(**settings)) as producer:
            producer.init_transactions()
            for end in (producer.abort_transaction, producer.commit_transaction):
                producer.begin_transaction()
                for topic, key, value in itertools.islice(self._records, 30):
                    producer.send(self.settings.kafka.in_kafka(topic), value, key=key.encode())
                end()

    def applied(self) -> int:
        stored = [self.store.checkpoint(*where) for where in EVERY]
        return sum(place.offset for place in stored if place)

    def committed(self) -> int:
        """The same as Kafka's tools show it."""
        kafka, found = self.settings.kafka, 0
        options = {"bootstrap_servers": kafka.bootstrap, "group_id": kafka.in_kafka(GROUP)}
        with closing(KafkaConsumer(**options)) as consumer:
            for topic, number in EVERY:
                found += consumer.committed(TopicPartition(kafka.in_kafka(topic), number)) or 0
        return found

    def caught_up(self, store: RedisFeatureStore | None = None) -> bool:
        found = {where: (store or self.store).checkpoint(*where) for where in EVERY}
        return all(place and place.offset >= self.source.end_offset(*where) for where, place in found.items())

    @contextmanager
    def worker(self, settings: StreamSettings | None = None) -> Iterator[Worker]:
        worker = Worker(settings or self.settings)
        worker.start()
        yield worker
        worker.stop.set()
        worker.join(60)

    def spark(self, log: Path) -> ChildProcess:
        """As an operator starts it."""
        settings = {
            "RECSYS_REDIS_URL": self.settings.redis_url.get_secret_value(),
            "RECSYS_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "RECSYS_KAFKA_TOPIC_PREFIX": self.settings.kafka_topic_prefix,
            "RECSYS_PARTITIONS": str(PARTITIONS),
            "RECSYS_SPARK_MASTER": "local[2]",
        }
        if self.settings.spark_jars:
            settings["RECSYS_SPARK_JARS"] = str(self.settings.spark_jars)
        command = recsys_command("stream", "worker", "--engine", "spark", "--json")
        process = ChildProcess(command, log, environ=os.environ | settings)
        self.opened.callback(process.kill)
        return process


@pytest.fixture
def rig(apache_jars: Path, spark_jars: Path | None, redis_url: str, tmp_path: Path) -> Iterator[Rig]:
    with ApacheKafka(jars=apache_jars) as broker, ExitStack() as opened:
        settings = StreamSettings(
            home=tmp_path,
            redis_url=redis_url,
            kafka_bootstrap=broker.bootstrap,
            kafka_topic_prefix="shop-a.",
            spark_jars=spark_jars,
        )
        create_topics(settings.kafka, list(Topic), PARTITIONS)
        yield Rig(settings, opened)


def contents(store: RedisFeatureStore, users: set[str]) -> object:
    states = {user: store.user(user) for user in users}
    return dict(store.all_items()), states, dict(store.catalogue())


@pytest.mark.apache_kafka
@pytest.mark.redis
@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_engines_hand_over_a_driver_is_killed_and_the_bits_are_equal(rig: Rig, tmp_path: Path) -> None:
    rig.send(500)
    with rig.worker() as first:
        assert wait_for(rig.caught_up, PATIENCE_S)
    rig.send(500)
    rig.send_transactions()
    spark = rig.spark(tmp_path / "spark.log")
    # from the worker's offsets, behind the markers of transactions
    try:
        spark.wait_until(rig.caught_up, PATIENCE_S)
    except Unavailable as error:
        if "RECSYS_SPARK_JARS" in spark.log.read_text(encoding="utf-8"):
            pytest.skip(f"no Kafka connector: {error}")
        raise
    spark.wait_until(lambda: rig.committed() == rig.applied(), PATIENCE_S)
    before, killed = rig.applied(), threading.Event()

    def keep_sending() -> None:
        while not killed.wait(0.1):
            rig.send(50)

    sender = threading.Thread(target=keep_sending, daemon=True)
    sender.start()
    spark.wait_until(lambda: rig.applied() > before + 200, PATIENCE_S)
    spark.kill()  # at work: with its JVM and its Python processes
    killed.set()
    sender.join()
    with rig.worker() as last:
        assert wait_for(rig.caught_up, PATIENCE_S)

    expected = expected_states(rig.source, (Topic.EVENTS, Topic.IMPRESSIONS), FEATURES)
    found = differences(expected, rig.store)
    assert found.cells > 1_000
    assert (found.wrong_cells, found.wrong_sequences) == (0, 0)
    letters = [letter.kind for letter in read_dead_letters(rig.source)]
    assert len(letters) == expected.dead_letters > 0
    by_both = sum(worker.metrics.totals()["events_applied"] for worker in (first, last))
    assert 0 < by_both < expected.events  # the rest was Spark's

    alone = rig.settings.model_copy(update={"redis_namespace": "alone"})
    with closing(open_store(alone)) as store, rig.worker(alone):
        assert wait_for(lambda: rig.caught_up(store), PATIENCE_S)
        assert contents(rig.store, set(expected.users)) == contents(store, set(expected.users))


@pytest.mark.kafka
def test_the_broker_in_memory_is_refused(kafka_broker: MemoryKafka, tmp_path: Path) -> None:
    """It tells Java's client wrong ends: part of the log would never be read."""
    settings = StreamSettings(home=tmp_path, redis_url="redis://x", kafka_bootstrap=kafka_broker.bootstrap)
    with pytest.raises(InvalidConfig, match="recsys up --kafka apache"):
        spark_main(settings, threading.Event())
