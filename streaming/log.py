"""The event log on Kafka: the only module that imports a Kafka client (kafka-python 3)."""

from collections.abc import Sequence

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from recsys.errors import InvalidConfig, Unavailable

ADMIN_TIMEOUT_MS = 10_000


def reachable(bootstrap: str, timeout_s: float = 2.0) -> bool:
    """True if a broker answers there."""
    try:
        KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=int(timeout_s * 1000)).close()
    except (KafkaError, OSError):
        return False
    return True


def create_topics(bootstrap: str, topics: Sequence[str], partitions: int) -> None:
    """Create those topics that do not exist yet.

    Raises:
        Unavailable: no broker answers.
        InvalidConfig: a topic exists with another number of partitions.
    """
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=ADMIN_TIMEOUT_MS)
        try:
            there = {t["name"]: len(t["partitions"]) for t in admin.describe_topics() if not t["error_code"]}
            missing = {str(t): {"num_partitions": partitions} for t in topics if t not in there}
            if missing:
                admin.create_topics(missing, wait_for_metadata=True)
        finally:
            admin.close()
    except (KafkaError, OSError) as error:
        raise Unavailable(f"Kafka at {bootstrap}: {error}") from error
    differing = {t: there[t] for t in topics if there.get(t, partitions) != partitions}
    if differing:
        raise InvalidConfig(
            f"topics {differing} have another number of partitions than RECSYS_PARTITIONS={partitions}; "
            "the number is fixed once events exist"
        )
