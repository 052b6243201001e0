"""`recsys topics` on Apache Kafka: create, check, grow."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.cli.commands.topics import app
from infra.local.apache_kafka import ApacheKafka
from recsys.contracts.topic_rules import GROWING
from recsys.contracts.types import Topic
from recsys.features.definitions import FEATURES
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore
from streaming.lake_writer.commit import added_partitions
from streaming.log import KafkaSource

pytestmark = [pytest.mark.apache_kafka, pytest.mark.redis, pytest.mark.slow]


def run(*arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)


def test_topics_are_created_checked_and_grown(
    apache_kafka: ApacheKafka, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(KafkaSource(apache_kafka.connection)) as source:
        had = {topic: source.partitions(topic) for topic in GROWING}
    partitions = max(had.values())
    for name, value in {
        "HOME": str(tmp_path),
        "REDIS_URL": redis_url,
        "KAFKA_BOOTSTRAP": apache_kafka.bootstrap,
        "PARTITIONS": str(partitions),
        "KAFKA_RETENTION_HOURS": "200",
    }.items():
        monkeypatch.setenv(f"RECSYS_{name}", value)
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(partitions))
    store.claim(Topic.EVENTS, 0, "log")
    code, found = run("check")
    assert (code, found["ok"]) == (1, False)
    assert {d["what"] for d in found["differences"]} >= {"retention.ms"}
    monkeypatch.setenv("RECSYS_KAFKA_RETENTION_HOURS", "168")
    assert run("grow", str(partitions)) == (0, {"before": had, "now": partitions})
    assert run("create") == (0, {"created": []})
    assert run("check") == (0, {"ok": True, "differences": []})
    assert run("grow", str(partitions + 2))[1]["before"] == dict.fromkeys(GROWING, partitions)
    added = f"{Topic.EVENTS}/{partitions + 1}"
    assert added in added_partitions(tmp_path / "lake")
    assert store.checkpoint(Topic.EVENTS, partitions + 1) is not None
    code, found = run("check")
    assert (code, {d["what"] for d in found["differences"]}) == (1, {"partitions"})
    assert f"RECSYS_PARTITIONS={partitions + 2}" in found["differences"][0]["todo"]
