"""Compare the topics of a cluster with `recsys.contracts.topic_rules`, and grow them."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.topic_rules import GROWING, TopicRules, check_partitions
from recsys.contracts.types import Topic
from recsys.kafka_connection import KafkaConnection
from streaming.log.topics import connect

# a longer time than wanted loses nothing
_AT_LEAST = ("retention.ms", "delete.retention.ms")
_VISIBLE_S = 10.0  # until a broker tells of new partitions


@dataclass(frozen=True, slots=True)
class Difference:
    """Between a topic and what the project wants, and what to do about it."""

    topic: str
    what: str
    wanted: str
    found: str
    todo: str


def check_topics(kafka: KafkaConnection, partitions: int, rules: TopicRules) -> list[Difference]:
    """How the cluster's topics differ; empty: not at all. Raises `Unavailable`: no broker answers."""
    with connect(kafka) as admin:
        brokers = len(admin.describe_cluster()["brokers"])
        there = {t["name"]: t for t in admin.describe_topics() if not t["error_code"]}
        found = [name for name in map(kafka.in_kafka, Topic) if name in there]
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in found]
        configs = admin.describe_configs(resources, config_filter="all").get("topic", {}) if found else {}
    differences: list[Difference] = []
    for topic in Topic:
        name = kafka.in_kafka(topic)
        if name not in there:
            differences.append(Difference(name, "topic", "there", "missing", "recsys topics create"))
            continue
        values = {key: str(config["value"]) for key, config in configs.get(name, {}).items()}
        differences += _differences(topic, there[name], values, brokers, partitions, rules)
    return differences


def _differences(
    topic: Topic, there: Any, values: Mapping[str, str], brokers: int, partitions: int, rules: TopicRules
) -> Iterator[Difference]:
    """`there`: as the admin client describes it. `values`: the topic's settings by name."""
    in_kafka, count = there["name"], len(there["partitions"])
    try:
        check_partitions(topic, count, partitions)
    except InvalidConfig as error:
        todo = str(error).partition(": ")[2]
        yield Difference(in_kafka, "partitions", str(partitions), str(count), todo)
    replicas = rules.replicas(brokers)
    least = min(len(partition["replica_nodes"]) for partition in there["partitions"])
    if least != replicas:
        todo = f"set RECSYS_KAFKA_REPLICATION={least}, or move replicas with kafka-reassign-partitions.sh"
        yield Difference(in_kafka, "replicas", str(replicas), str(least), todo)
    for name, wanted in rules.configs(topic, replicas).items():
        value = values.get(name, "")
        if value == wanted or (name in _AT_LEAST and _is_longer(value, wanted)):
            continue
        todo = f"kafka-configs.sh --alter --entity-type topics --entity-name {in_kafka} --add-config {name}={wanted}"
        yield Difference(in_kafka, name, wanted, value, todo)


def _is_longer(found: str, wanted: str) -> bool:
    """Of two times in milliseconds; -1: for ever."""
    return found == "-1" or (wanted != "-1" and found.isdecimal() and int(found) >= int(wanted))


def grow_topics(kafka: KafkaConnection, partitions: int, only_check: bool = False) -> dict[str, int]:
    """Add partitions to the topics that may grow, up to that number of each. Returns the numbers before. `only_check`:
    ask Kafka whether it would.
    Raises `Unavailable`: no broker answers, or it refuses.
    Raises `InvalidConfig`: one has more; Kafka cannot take partitions away."""
    with connect(kafka) as admin:
        before = _counts(admin, kafka)
        for topic, count in before.items():
            if count > partitions:
                raise InvalidConfig(
                    f"topic {topic} has {count} partitions, which Kafka does not take away: grow to {count} or more"
                )
        fewer = {kafka.in_kafka(topic): partitions for topic, count in before.items() if count < partitions}
        if fewer:
            admin.create_partitions(fewer, validate_only=only_check)
        if fewer and not only_check:
            deadline = time.monotonic() + _VISIBLE_S
            while min(_counts(admin, kafka).values()) < partitions and time.monotonic() < deadline:
                time.sleep(0.1)
    return before


def _counts(admin: Any, kafka: KafkaConnection) -> dict[str, int]:
    """Partitions of the topics that may grow."""
    topics = admin.describe_topics([kafka.in_kafka(topic) for topic in GROWING])
    return {
        kafka.named(topic["name"]): len(topic["partitions"]) for topic in topics if not topic["error_code"]
    }
