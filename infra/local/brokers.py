"""Which broker is started where no Kafka is named (RECSYS_LOCAL_KAFKA)."""

from pathlib import Path

from infra.local.apache_kafka import ApacheKafka
from infra.local.kafka import KafkaBroker
from infra.local.memory_kafka import MemoryKafka
from recsys.settings import LocalKafka, Settings


def local_kafka(
    data: Path | None = None, partitions: int = 4, port: int = 0, settings: Settings | None = None
) -> KafkaBroker:
    """A broker of the kind that the settings name; not started yet.

    Raises:
        InvalidConfig, Unavailable: Apache Kafka is asked for, and its jars are not found.
    """
    settings = settings or Settings()
    prefix = settings.kafka_topic_prefix
    if settings.local_kafka is LocalKafka.APACHE:
        rules = settings.topic_rules
        return ApacheKafka(data, partitions, port, settings.kafka_jars, rules=rules, topic_prefix=prefix)
    return MemoryKafka(data, partitions, port, topic_prefix=prefix)
