"""Users whom every part knows are forgotten: afterwards the ids are in no file of the home folder and no key of Redis.

What Kafka holds is another promise: the tombstone that lets the topic `users` drop every record of the user, and a
retention for the others (tests/infra/deploy/test_deployment.py).
"""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from infra.local.children import Children
from infra.local.memory_kafka import MemoryKafka
from infra.local.redis import Persistence, RedisServer
from infra.loop import serve
from recsys.contracts.events import Event
from recsys.contracts.merges import UserMerge
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE, EventType, Topic
from recsys.datasets.importer import import_dataset
from recsys.datasets.opening import open_dataset
from recsys.kafka_connection import KafkaConnection
from recsys.lake.lake import IMPRESSIONS, days, read_day, read_events, write_parquet
from recsys.lake.merges import read_merges
from recsys.store.redis_client import connect
from streaming.log import KafkaSink, KafkaSource
from streaming.log.dead_letter import read_dead_letters
from tests.bundles import tiny_items, write_tiny_bundle
from tests.recsys.datasets import samples
from tests.traces_of import files_with, keys_with
from tests.training.features.feature_rows import event_rows
from training.features.sequences import sequences

BY_COMMAND, BY_REQUEST, OTHER = USERS = "somebody-77", "somebody-78", "neighbour-88"
ANON = dict(zip(USERS, ("somebody-anon-77", "somebody-anon-78", "neighbour-anon-88"), strict=True))
WHO = "somebody-"
AHEAD = 40 * MS_PER_MINUTE  # of a clock; more than the default allows
ITEM = tiny_items()[0].item_id
EXPERIMENT = "experiments: [{name: lists, layer: rerank, arms: [{name: a}, {name: b}]}]"

pytestmark = [pytest.mark.slow, pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(300)]


def test_the_id_is_nowhere_after_forgetting_and_compaction(tmp_path: Path) -> None:
    home, now = tmp_path / "home", time.time_ns() // 1_000_000
    write_tiny_bundle(home / "bundles")
    (home / "experiments.yaml").write_text(EXPERIMENT)
    with (
        RedisServer(home / "redis", Persistence.AOF) as redis,
        MemoryKafka(home / "kafka", partitions=2) as kafka,
        closing(KafkaSource(kafka.connection)) as source,
    ):
        environ = {
            "HOME": str(home),
            "REDIS_URL": redis.url,
            "KAFKA_BOOTSTRAP": kafka.bootstrap,
            "PARTITIONS": "2",
            "ARCHIVE_MAX_SECONDS": "0.5",
            "FUTURE_MINUTES": "60",
            "EXPERIMENTS": str(home / "experiments.yaml"),
            "LOG_LEVEL": "debug",
            "STORE_TIMEOUT_MS": "2000",
            "DEADLINE_MS": "5000",
        }
        named = {f"RECSYS_{name}": value for name, value in environ.items()} | {"OMP_NUM_THREADS": "1"}
        with Children(home / "logs", named) as children:
            for name in ("worker", "archive"):
                children.start(name, "stream", name)
            api = serve(children)
            with httpx.Client(base_url=api.url, timeout=30) as client:
                for user in USERS:
                    be_known(client, kafka.connection, tmp_path, home, user, now)
                wait_for(lambda: _archived(home) >= 9, "events in the lake")
                wait_for(lambda: len(list(read_dead_letters(source))) == 3, "the dead letters")
                for user in USERS:
                    wait_for(lambda user=user: client.get(f"/v1/users/{user}").json()["seen"], user)  # type: ignore[misc]
                wait_for(lambda: bool(days(home / "lake", IMPRESSIONS)), "impressions in the lake")
                for user in USERS:  # what the visitor did before the log-in is in the user's history
                    wait_for(lambda user=user: client.get(f"/v1/users/{user}").json()["seen"] == 3, "merge")  # type: ignore[misc]
                wait_for(lambda: len(read_merges(home / "lake")) == 3, "merges in the lake")
                learn(home)
                keys = keys_with(redis.url, OTHER)
                assert len(files_with(home / "lake", WHO)) >= 5
                assert len(keys_with(redis.url, WHO)) >= 4

                assert client.delete(f"/v1/users/{BY_REQUEST}").status_code == 204
                children.run("users", "forget", BY_COMMAND)
                buried = {*ids_of(BY_COMMAND), *ids_of(BY_REQUEST)}
                wait_for(lambda: _buried(source) == buried, "the tombstones")
            children.stop("api")
            children.stop("archive")  # what it has read is in the lake
            children.run("stream", "compact")
            with connect(redis.url) as client_of_redis:
                client_of_redis.bgrewriteaof()
                wait_for(lambda: not _rewriting(client_of_redis), "Redis's file")
            assert keys_with(redis.url, WHO) == []
            assert files_with(home, WHO) == []
            assert len(files_with(home / "lake", OTHER)) >= 4
            assert keys_with(redis.url, OTHER) == keys


def be_known(
    client: httpx.Client, kafka: KafkaConnection, folder: Path, home: Path, user: str, now: int
) -> None:
    """The user asks, sends events, is put and imported; one event is refused, one is of a clock that is ahead."""
    asked = client.post("/v1/recommendations?explain=true", json={"user_id": user, "k": 3, "cursor": ""})
    assert asked.status_code == 200, asked.text
    assert asked.json()["arms"]
    again = {"idempotency-key": f"key-{USERS.index(user)}"}
    put = client.put(f"/v1/users/{user}", json={"attributes": {"age": "31"}}, headers=again)
    assert put.status_code == 202, put.text
    events = [Event(f"{user}-{at}", EventType.CLICK, user, ITEM, now + at).to_dict() for at in (0, AHEAD)]
    sent = client.post("/v1/events", json={"events": events}, headers=again)
    assert sent.status_code == 202, sent.text
    anonymous = Event(f"{user}-anon", EventType.CLICK, ANON[user], ITEM, now - 1).to_dict()
    assert client.post("/v1/events", json=anonymous).status_code == 202
    merge = UserMerge(ANON[user], user, now)
    if user == BY_COMMAND:  # any producer may
        with closing(KafkaSink(kafka, 2)) as sink:
            sink.append(Topic.USERS, merge.key, msgspec.json.encode(merge.to_dict()))
    else:
        merged = client.post(f"/v1/users/{user}/merge", json={"from": ANON[user]}, headers=again)
        assert merged.status_code == 202, merged.text
    bad = client.post("/v1/events", json={"events": [events[0] | {"type": "no such type"}]})
    assert bad.status_code >= 400 or bad.json()["rejected"]
    with closing(KafkaSink(kafka, 2)) as sink:
        sink.append(Topic.EVENTS, user, msgspec.json.encode(events[0] | {"type": "no such type"}))
    rows = [f"{user},x,{now - MS_PER_DAY},1,,", f"{user},x,soon,1,,"]
    import_dataset(open_dataset(samples.table(folder / f"table-{USERS.index(user)}", rows)), home / "lake")


def ids_of(user: str) -> tuple[str, str, str]:
    """The keys of the topic `users` that name the user."""
    return user, ANON[user], UserMerge(ANON[user], user, 0).key


def learn(home: Path) -> None:
    """Sequences by the kernel of `recsys features build`, and a file in the place of its examples."""
    rows = event_rows(list(read_events(home / "lake")))
    write_parquet(home / "features" / "examples" / "dt=2026-01-01" / "part-0.parquet", rows)
    write_parquet(home / "features" / "sequences" / "part-0.parquet", sequences(rows))


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def _archived(home: Path) -> int:
    lake = home / "lake"
    found = (read_day(lake, day, columns=("user_id", "event_id")).column("event_id") for day in days(lake))
    return sum(str(event_id).startswith(USERS) for ids in found for event_id in ids.to_pylist())


def _buried(source: KafkaSource) -> set[str]:
    """Keys without a value in the topic `users`."""
    for partition in range(2):
        source.seek(Topic.USERS, partition, 0)
    return {record.key for record in source.poll(1.0, 100) if record.tombstone}


def _rewriting(redis: Any) -> bool:
    info = redis.info("persistence")
    return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])
