"""Connect to Kafka, translate its errors, create topics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from recsys.contracts.errors import InvalidConfig, Unavailable

CONNECT_TIMEOUT_MS = 5_000


@contextmanager
def kafka_errors(bootstrap: str) -> Iterator[None]:
    """Translate errors of the Kafka client into `Unavailable`."""
    try:
        yield
    except (KafkaError, OSError) as error:
        raise Unavailable(f"Kafka at {bootstrap}: {type(error).__name__}: {error}") from error


@contextmanager
def connect(bootstrap: str, timeout_ms: int = CONNECT_TIMEOUT_MS) -> Iterator[Any]:
    """Open a Kafka admin client. Raises `Unavailable`: no broker answers in time."""
    with kafka_errors(bootstrap):
        timeouts = {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, reconnect_backoff_max_ms=1_000, **timeouts)
        try:
            yield admin
        finally:
            admin.close()


def reachable(bootstrap: str, timeout_s: float = 2.0) -> bool:
    try:
        with connect(bootstrap, int(timeout_s * 1_000)):
            return True
    except Unavailable:
        return False


def create_topics(bootstrap: str, topics: Sequence[str], partitions: int) -> None:
    """Create the topics that do not exist yet; another process may create them at the same time.
    Raises `Unavailable`: no broker answers.
    Raises `InvalidConfig`: a topic has a different number of partitions."""
    with connect(bootstrap) as admin:
        there = _partition_counts(admin)
        # the broker's time, not the producer's: a wrong clock must not decide which events are future or late
        new = {"num_partitions": partitions, "configs": {"message.timestamp.type": "LogAppendTime"}}
        missing = {str(t): new for t in topics if t not in there}
        if missing:
            try:
                admin.create_topics(missing, wait_for_metadata=True)
            except TopicAlreadyExistsError:  # one of them; the broker has created the others
                admin.wait_for_topics(list(missing))
            there = _partition_counts(admin)
    differing = {str(t): there[t] for t in topics if there.get(t, partitions) != partitions}
    if differing:
        raise InvalidConfig(
            f"RECSYS_PARTITIONS={partitions}, but topics have other numbers of partitions: {differing}; "
            "the number is fixed once events exist"
        )


def never_create_topics(metadata: Any) -> None:
    """Ask a broker about topics without making it create them, with its own number of partitions and the producers'
    clock. `metadata`: of a client; kafka-python 3.0 does not pass `allow_auto_create_topics` on to it."""
    metadata.config["allow_auto_create_topics"] = False


def _partition_counts(admin: Any) -> dict[str, int]:
    return {t["name"]: len(t["partitions"]) for t in admin.describe_topics() if not t["error_code"]}
