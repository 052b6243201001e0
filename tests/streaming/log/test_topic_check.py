"""Topics are compared with the table, each difference with what to do."""

import time
from typing import Any

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from infra.local.apache_kafka import ApacheKafka
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.topic_rules import TopicRules, check_partitions
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, Topic
from recsys.kafka_connection import KafkaConnection
from streaming.log import create_topics
from streaming.log.topic_check import _differences, check_topics, grow_topics
from streaming.log.topics import connect

RULES = TopicRules(retention_ms=MS_PER_HOUR)


def found(topic: Topic, partitions: int = 4, replicas: int = 3, **changed: str) -> list[tuple[str, str, str]]:
    """What differs on a cluster of three brokers, what is wanted, what there is."""
    there: Any = {"name": str(topic), "partitions": [{"replica_nodes": [*range(replicas)]}] * partitions}
    values = {**RULES.configs(topic, 3), **{name.replace("_", "."): value for name, value in changed.items()}}
    return [(d.what, d.wanted, d.found) for d in _differences(topic, there, values, 3, 4, RULES)]


def test_what_is_as_wanted_is_no_difference() -> None:
    assert [found(topic) for topic in Topic] == [[]] * len(Topic)
    assert found(Topic.EVENTS, retention_ms=str(2 * MS_PER_HOUR)) == []
    assert found(Topic.EVENTS, retention_ms="-1") == []
    assert RULES.configs(Topic.DEAD_LETTER, 3)["retention.ms"] == str(30 * MS_PER_DAY)


def test_each_difference_is_named() -> None:
    assert found(Topic.EVENTS, retention_ms="1") == [("retention.ms", "3600000", "1")]
    assert found(Topic.USERS, cleanup_policy="delete") == [("cleanup.policy", "compact", "delete")]
    assert found(Topic.ITEMS, delete_retention_ms="1") == [("delete.retention.ms", "3600000", "1")]
    assert found(Topic.EVENTS, message_timestamp_type="CreateTime", min_insync_replicas="1") == [
        ("message.timestamp.type", "LogAppendTime", "CreateTime"),
        ("min.insync.replicas", "2", "1"),
    ]
    assert found(Topic.IMPRESSIONS, partitions=6, replicas=1) == [
        ("partitions", "4", "6"),
        ("replicas", "3", "1"),
    ]


def test_only_what_grows_must_have_the_configured_partitions() -> None:
    for topic in (Topic.ITEMS, Topic.USERS, Topic.DEAD_LETTER):
        check_partitions(topic, 2, 4)
    with pytest.raises(InvalidConfig, match="set RECSYS_PARTITIONS=2, or run `recsys topics grow 4`"):
        check_partitions(Topic.EVENTS, 2, 4)


def test_records_are_kept_for_ever_without_a_retention() -> None:
    rules = TopicRules(retention_ms=0)
    assert rules.configs(Topic.EVENTS, 1)["retention.ms"] == "-1"
    assert rules.configs(Topic.USERS, 1) == {
        "cleanup.policy": "compact",
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "1",
    }


def test_more_replicas_in_sync_than_there_are_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="RECSYS_KAFKA_MIN_INSYNC=3"):
        TopicRules(replication=2, min_insync=3)


@pytest.fixture
def kafka(apache_kafka: ApacheKafka) -> KafkaConnection:
    """Without two topics."""
    with connect(apache_kafka.connection) as admin:
        admin.delete_topics([str(Topic.ITEMS), str(Topic.USERS)])
        while {*admin.list_topics()} & {Topic.ITEMS, Topic.USERS}:
            time.sleep(0.05)
    return apache_kafka.connection


@pytest.mark.apache_kafka
@pytest.mark.slow
def test_a_cluster_is_compared_and_what_is_missing_is_created(kafka: KafkaConnection) -> None:
    rules, missing = TopicRules(), {Topic.ITEMS, Topic.USERS}
    partitions = grow_topics(kafka, 6)[Topic.EVENTS]
    assert {d.topic for d in check_topics(kafka, 6, rules)} == missing
    assert set(create_topics(kafka, list(Topic), 6, rules)) == missing
    assert check_topics(kafka, 6, rules) == []
    assert grow_topics(kafka, 6) == {Topic.EVENTS: 6, Topic.IMPRESSIONS: 6}
    with pytest.raises(InvalidConfig, match="has 6 partitions"):
        grow_topics(kafka, partitions - 1)
    wanted = rules.configs(Topic.EVENTS, 1)["retention.ms"]
    for value, differences in (("1000", 1), (wanted, 0)):
        with connect(kafka) as admin:
            resource = ConfigResource(ConfigResourceType.TOPIC, Topic.EVENTS, {"retention.ms": value})
            admin.alter_configs([resource])
        while len(named := check_topics(kafka, 6, rules)) != differences:
            time.sleep(0.05)  # the broker has taken it, and tells of it a little later
        assert [(d.what, d.found) for d in named] == [("retention.ms", "1000")] * differences
        assert all("kafka-configs.sh" in d.todo for d in named)
