"""`recsys users`: merged at once; forgotten, gone from Redis at once, from the lake with the next compaction."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli.commands.users import app
from infra.local.memory_kafka import MemoryKafka
from recsys.contracts.events import Event
from recsys.contracts.merges import Links, UserMerge
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE, EventType, Topic
from recsys.features.definitions import FEATURES
from recsys.lake.forget import forgotten_users, user_digest
from recsys.lake.lake import EVENTS, day_writer, events_table, read_events
from recsys.simulation.clock import CLOCK_FILE, WorldClock, write_clock
from recsys.store.base import Batch, StoreConfig
from recsys.store.nightly import NightlyStore
from recsys.store.redis import RedisFeatureStore
from streaming.lake_writer.compact import compact
from streaming.log import KafkaSource

T0 = 1_700_000_000_000
CLICKS = [Event(f"e{n}", EventType.CLICK, user, "i", T0 + n) for n, user in enumerate(["u", "v", "anon"])]


@pytest.mark.redis
@pytest.mark.kafka
def test_every_trace_of_the_user_is_deleted(
    tmp_path: Path, redis_url: str, kafka_broker: MemoryKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    with day_writer(tmp_path / "lake", EVENTS, "test") as writer:
        writer.write(events_table(CLICKS))
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(1), "other")
    epoch = store.claim(Topic.EVENTS, 0, "log").epoch
    store.apply(Batch(Topic.EVENTS, 0, epoch, 0, 3, T0 + 2, range(3), CLICKS))
    nightly = NightlyStore(redis_url, FEATURES, "other")
    nightly.write_users((user, store.user(user)) for user in store.user_ids())
    assert nightly.user("u").histories
    for name, value in {
        "HOME": str(tmp_path),
        "REDIS_URL": redis_url,
        "KAFKA_BOOTSTRAP": kafka_broker.bootstrap,
        "FUTURE_MINUTES": "7",
        "PARTITIONS": "1",
        "REDIS_NAMESPACE": "other",
        "CLOCK": str(tmp_path / CLOCK_FILE),
    }.items():
        monkeypatch.setenv(f"RECSYS_{name}", value)

    later = T0 + MS_PER_DAY
    write_clock(tmp_path / CLOCK_FILE, WorldClock(wall_ms=1, world_ms=later, speed=0, until_ms=later))

    merged = CliRunner().invoke(app, ["merge", "anon", "u", "--json"], catch_exceptions=False)
    assert json.loads(merged.stdout)["counts"] is True
    assert [visit.event_id for visit in store.user("u").histories["seen"]] == ["e0", "e2"]
    taken = CliRunner().invoke(app, ["merge", "anon", "v", "--json"], catch_exceptions=False)
    assert json.loads(taken.stdout)["counts"] is False

    done = CliRunner().invoke(app, ["forget", "u", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["had_state"] is True
    until_ms = later + 7 * MS_PER_MINUTE
    assert forgotten_users(tmp_path / "lake") == {user_digest(id_): until_ms for id_ in ("anon", "u")}, (
        "in the world's time; clocks may be ahead"
    )
    with closing(KafkaSource(kafka_broker.connection)) as source:
        source.seek(Topic.USERS, 0, 0)
        records = source.poll(1.0, 10)
    keys = [UserMerge("anon", user, 0).key for user in "uv"]
    assert [(record.key, record.tombstone) for record in records] == [
        (keys[0], False),
        (keys[1], False),
        ("anon", True),
        ("u", True),
        (keys[0], True),
        (keys[1], True),
    ]
    assert store.links("v") == Links()
    assert store.user("u") == EntityState()
    assert store.user("v").cells
    assert nightly.user("u") == EntityState()
    assert nightly.user("v").cells
    nightly.close()
    store.close()
    compact(tmp_path / "lake")
    assert list(read_events(tmp_path / "lake")) == [CLICKS[1]]
    again = CliRunner().invoke(app, ["forget", "u", "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["had_state"] is False
