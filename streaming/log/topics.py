"""Create topics, and ask whether Kafka is there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError

from recsys.contracts.errors import AccessRefused, Unavailable
from recsys.contracts.topic_rules import TopicRules, check_partitions
from recsys.kafka_connection import KafkaConnection
from streaming.log.connection import CONNECT_TIMEOUT_MS, client_options, kafka_errors


@contextmanager
def connect(kafka: KafkaConnection, timeout_ms: int = CONNECT_TIMEOUT_MS) -> Iterator[Any]:
    """Open a Kafka admin client. Raises `Unavailable`: no broker answers in time, or it refuses this client."""
    with kafka_errors(kafka):
        timeouts = {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
        admin = KafkaAdminClient(**client_options(kafka) | timeouts)
        try:
            yield admin
        finally:
            admin.close()


def reachable(kafka: KafkaConnection, timeout_s: float = 2.0) -> bool:
    """Raises `AccessRefused`: it is there, but does not let this client in."""
    try:
        with connect(kafka, int(timeout_s * 1_000)):
            return True
    except AccessRefused:
        raise
    except Unavailable:
        return False


def create_topics(
    kafka: KafkaConnection, topics: Sequence[str], partitions: int, rules: TopicRules | None = None
) -> list[str]:
    """Create the topics that do not exist yet; another process may create them at the same time. Returns which, by
    their names in Kafka.
    Raises `Unavailable`: no broker answers, or it refuses them.
    Raises `InvalidConfig`: a topic has a different number of partitions."""
    rules = rules or TopicRules()
    with connect(kafka) as admin:
        there = _partition_counts(admin)
        missing = [topic for topic in topics if kafka.in_kafka(topic) not in there]
        if missing:
            replicas = rules.replicas(len(admin.describe_cluster()["brokers"]))
            new = {
                kafka.in_kafka(topic): {
                    "num_partitions": partitions,
                    "replication_factor": replicas,
                    "configs": rules.configs(topic, replicas),
                }
                for topic in missing
            }
            try:
                admin.create_topics(new, wait_for_metadata=True)
            except TopicAlreadyExistsError:  # one of them; the broker has created the others
                admin.wait_for_topics(list(new))
            there = _partition_counts(admin)
    for topic in topics:
        check_partitions(topic, there.get(kafka.in_kafka(topic), partitions), partitions)
    return [kafka.in_kafka(topic) for topic in missing]


def never_create_topics(metadata: Any) -> None:
    """Ask a broker about topics without making it create them, with its own number of partitions and the producers'
    clock. `metadata`: of a client; kafka-python 3.0 does not pass `allow_auto_create_topics` on to it."""
    metadata.config["allow_auto_create_topics"] = False


def _partition_counts(admin: Any) -> dict[str, int]:
    return {t["name"]: len(t["partitions"]) for t in admin.describe_topics() if not t["error_code"]}
