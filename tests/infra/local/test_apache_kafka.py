"""Apache Kafka as the local broker: found, formatted once, and its log kept."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.local.apache_kafka import ApacheKafka, new_cluster_id
from infra.local.brokers import local_kafka
from infra.local.kafka_jars import VERSION, kafka_jars
from infra.local.memory_kafka import MemoryKafka
from infra.local.services import embedded
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.types import Topic
from recsys.kafka_connection import KafkaConnection
from recsys.settings import LocalKafka, Settings
from streaming.log import KafkaSink, KafkaSource


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where jars would be kept; nothing else is named."""
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "recsys" / f"kafka-{VERSION}"


# --- its jars ---------------------------------------------------------------------------------------------------


def test_jars_are_named_installed_or_cached(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    assert kafka_jars() == cache
    installed = tmp_path / "kafka" / "libs"
    named = tmp_path / "named"
    for folder in (installed, named):
        folder.mkdir(parents=True)
        (folder / "kafka_2.13-4.1.0.jar").touch()
    monkeypatch.setenv("KAFKA_HOME", str(installed.parent))
    assert kafka_jars() == installed
    assert kafka_jars(named) == named


def test_a_folder_without_kafka_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidConfig, match="RECSYS_KAFKA_JARS"):
        kafka_jars(tmp_path)
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(InvalidConfig, match="KAFKA_HOME"):
        kafka_jars()


def test_jars_that_cannot_be_resolved_leave_no_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho unknown host repo1.maven.org >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match="unknown host repo1.maven.org.*set RECSYS_KAFKA_JARS"):
        kafka_jars()
    assert not cache.exists()
    java.unlink()
    with pytest.raises(Unavailable, match="needs Java"):
        kafka_jars()


def test_the_broker_is_chosen_by_a_setting(tmp_path: Path) -> None:
    (tmp_path / "kafka_2.13-4.3.1.jar").touch()
    settings = Settings(local_kafka=LocalKafka.APACHE, kafka_jars=tmp_path)
    assert isinstance(local_kafka(settings=settings), ApacheKafka)
    assert isinstance(local_kafka(settings=Settings(local_kafka=LocalKafka.MEMORY)), MemoryKafka)


def test_cluster_ids_are_no_options() -> None:
    ids = {new_cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert {len(each) for each in ids} == {22}
    assert not any(each.startswith("-") for each in ids)


def test_up_refuses_to_start_a_broker_beside_a_named_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "up", "--kafka", "apache"],
        env=os.environ | {"RECSYS_KAFKA_BOOTSTRAP": "kafka:9092"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "RECSYS_KAFKA_BOOTSTRAP names one" in done.stderr


# --- its log ----------------------------------------------------------------------------------------------------


def values(bootstrap: str) -> Iterator[bytes]:
    with closing(KafkaSource(KafkaConnection(bootstrap))) as source:
        for partition in range(source.partitions(Topic.EVENTS)):
            if source.end_offset(Topic.EVENTS, partition):
                source.seek(Topic.EVENTS, partition, 0)
                yield from (record.value for record in source.poll(5.0, 100))


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.apache_kafka
def test_the_log_outlives_the_services_until_they_start_afresh(
    tmp_path: Path, redis_url: str, apache_jars: Path
) -> None:
    settings = Settings(
        home=tmp_path,
        redis_url=SecretStr(redis_url),
        kafka_bootstrap="",
        local_kafka=LocalKafka.APACHE,
        kafka_jars=apache_jars,
        partitions=2,
    )
    with (
        embedded(settings) as services,
        closing(KafkaSink(KafkaConnection(services.kafka_bootstrap))) as sink,
    ):
        sink.append(Topic.EVENTS, "u", b"kept")
        sink.flush()
        os.kill(services.kafka_pid, 9)
    with embedded(settings) as services:
        assert list(values(services.kafka_bootstrap)) == [b"kept"]
    with embedded(settings, fresh=True) as services:
        assert list(values(services.kafka_bootstrap)) == []
