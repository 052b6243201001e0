"""`recsys users forget`: gone from Redis at once, from the lake with the next compaction."""

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infra.cli.commands.users import app
from recsys.contracts.changes import UserChange
from recsys.contracts.events import Event
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE, EventType, Topic, User
from recsys.datasets.changed import users_after
from recsys.features.definitions import FEATURES
from recsys.lake.forget import forgotten_users, user_digest
from recsys.lake.lake import EVENTS, day_of, day_writer, events_table, read_events, write_parquet
from recsys.simulation.clock import CLOCK_FILE, WorldClock, write_clock
from recsys.store.base import Batch, StoreConfig
from recsys.store.nightly import NightlyStore
from recsys.store.redis import RedisFeatureStore
from recsys.store.redis_client import connect
from streaming.lake_writer.compact import compact

T0 = 1_700_000_000_000
CLICKS = [Event(f"e{n}", EventType.CLICK, user, "i", T0 + n) for n, user in enumerate(["u", "v", "u"])]


@pytest.mark.redis
def test_every_trace_of_the_user_is_deleted(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
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
        "KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "PARTITIONS": "1",
        "REDIS_NAMESPACE": "other",
        "CLOCK": str(tmp_path / CLOCK_FILE),
    }.items():
        monkeypatch.setenv(f"RECSYS_{name}", value)

    later = T0 + MS_PER_DAY
    write_clock(tmp_path / CLOCK_FILE, WorldClock(wall_ms=1, world_ms=later, speed=0, until_ms=later))

    done = CliRunner().invoke(app, ["forget", "u", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["had_state"] is True
    assert forgotten_users(tmp_path / "lake") == {user_digest("u"): later + 5 * MS_PER_MINUTE}, (
        "in the world's time; clocks may be ahead"
    )
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


@pytest.mark.redis
def test_the_id_is_nowhere_after_forgetting_and_compaction(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In no file of the home folder and no key or value of Redis. An event of a clock that is ahead is in the lake."""
    who, lake, features = "somebody-77", tmp_path / "lake", tmp_path / "features"
    now = time.time_ns() // 1_000_000
    events = [
        Event(f"e{user}-{at}", EventType.CLICK, user, "i", at)
        for user in (who, "other")
        for at in (now - MS_PER_DAY, now + 4 * MS_PER_MINUTE)
    ]
    with day_writer(lake, EVENTS, "test") as writer:
        writer.write(events_table(events))
    write_parquet(lake / EVENTS / f"dt={day_of(now)}" / "events-0.parquet", events_table(events[1:2]))
    put = [UserChange(user, User(user, {"age": "31"}), now) for user in (who, "other")]
    for path, table in users_after(lake, put):
        write_parquet(lake / path, table)
    write_parquet(lake / "rejected" / "shop.parquet", pa.table({"row": [1, 2], "cell": [f"{who} ", "x"]}))
    (lake / "import-report.json").write_text(json.dumps({"first_broken": [{"cell": who}, {"cell": "x"}]}))
    users = pa.table({"user_id": [who, "other"]})
    write_parquet(features / "examples" / f"dt={day_of(now)}" / "part-0.parquet", users)
    write_parquet(features / "sequences" / "part-0.parquet", users)
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(1))
    epoch = store.claim(Topic.EVENTS, 0, "log").epoch
    store.apply(Batch(Topic.EVENTS, 0, epoch, 0, 4, now, range(4), events))
    store.change_users(put)
    assert len(found_in(tmp_path, redis_url, who)) >= 8
    for name, value in {"HOME": tmp_path, "REDIS_URL": redis_url, "PARTITIONS": 1}.items():
        monkeypatch.setenv(f"RECSYS_{name}", str(value))
    monkeypatch.setenv("RECSYS_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    CliRunner().invoke(app, ["forget", who], catch_exceptions=False)
    compact(lake, features)
    store.apply(Batch(Topic.EVENTS, 0, epoch, 4, 6, now, range(4, 6), events[:2]))  # under way
    store.change_users(put)
    store.close()
    assert found_in(tmp_path, redis_url, who) == []
    assert len(found_in(tmp_path, redis_url, "other")) >= 6


def found_in(home: Path, redis_url: str, text: str) -> list[str]:
    """Where the text is: files by path, Redis by key."""
    found = []
    for path in home.rglob("*"):
        if path.suffix == ".parquet":
            content = str(pq.read_table(path, partitioning=None).to_pylist())
        else:
            content = path.read_text(errors="replace") if path.is_file() else ""
        if text in content or text in str(path):
            found.append(str(path))
    with connect(redis_url) as redis:
        found += [str(key) for key in redis.scan_iter() if text.encode() in key + (_raw(redis, key))]
    return found


def _raw(redis: Any, key: bytes) -> bytes:
    read = {
        b"hash": redis.hgetall,
        b"set": redis.smembers,
        b"string": redis.get,
        b"zset": lambda k: redis.zrange(k, 0, -1),
        b"stream": redis.xrange,
    }
    return str(read[redis.type(key)](key)).encode()
