"""`recsys features backfill` from end to end: lake → another namespace, where a worker continues like the live one."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from infra.cli.commands.features import app
from infra.evaluation.benchmarks.feature_fixture import FeatureFixture
from infra.evaluation.benchmarks.parity_comparison import live_cells
from infra.evaluation.stream_rig import PARTITIONS, StreamRig
from infra.local.children import recsys_command
from recsys.contracts.events import Event
from recsys.contracts.impressions import Impression, ShownItem
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, Topic
from recsys.features.aggregates import Entity
from recsys.features.definitions import FEATURES
from recsys.lake.lake import EVENTS, day_writer, events_table
from recsys.store.base import FeatureStore, StoreConfig
from recsys.store.redis import RedisFeatureStore
from streaming.lake_writer.commit import read_checkpoint
from streaming.replay import Position, replay

NAMESPACE = "recsys-2"
WORLD = FeatureFixture.make(users=12, items=15, days=4, seed=3)
END_MS = WORLD.start_ms + 4 * MS_PER_DAY
WAIT_S = 120.0


def send(rig: StreamRig, events: list[Event], shown_at: int) -> None:
    """Events, and a list that was shown."""
    for event in events:
        rig.sink.append(Topic.EVENTS, event.user_id, json.dumps(event.to_dict()).encode())
    user, items = WORLD.users[0].user_id, WORLD.items[:5]
    lines = [ShownItem(i.item_id, n, 0.0, categories=i.categories) for n, i in enumerate(items)]
    served = np.zeros((len(lines), FEATURES.dimension), np.float32)
    record = Impression(f"request-{shown_at}", user, shown_at, "bundle", FEATURES.fingerprint, lines, served)
    rig.sink.append(Topic.IMPRESSIONS, user, json.dumps(record.to_dict()).encode())
    rig.sink.flush(WAIT_S)


def applied(store: FeatureStore) -> int:
    places = [(topic, p) for topic in (Topic.EVENTS, Topic.IMPRESSIONS) for p in range(PARTITIONS)]
    return sum(c.offset for place in places if (c := store.checkpoint(*place)))


def states(store: FeatureStore, now_ms: int) -> dict[tuple[Entity, str], EntityState]:
    found = {(Entity.USER, u.user_id): store.user(u.user_id) for u in WORLD.users}
    found |= {(Entity.ITEM, item_id): state for item_id, state in store.all_items()}
    return {k: EntityState(live_cells(k[0], s, now_ms), s.histories) for k, s in found.items()}


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.redis
@pytest.mark.kafka
def test_a_backfilled_namespace_continues_like_the_live_one(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = WORLD.log(400, WORLD.start_ms, 2 * MS_PER_DAY, name="imported")
    streamed = WORLD.log(300, WORLD.start_ms + 2 * MS_PER_DAY, MS_PER_DAY, MS_PER_HOUR, 0.1, "streamed")
    later = WORLD.log(300, WORLD.start_ms + 3 * MS_PER_DAY, MS_PER_DAY, MS_PER_HOUR, 0.1, "later")
    retried = [e for e in streamed if e.event_time_ms > WORLD.start_ms + 3 * MS_PER_DAY - 4 * MS_PER_HOUR]
    assert retried
    with StreamRig() as rig:
        lake = rig.home / "lake"
        with day_writer(lake, EVENTS, "import") as writer:
            writer.write(events_table(imported))
        replay(lake, rig.sink, Position(rig.home / "replay.json", rig.source.log_id(Topic.EVENTS)))
        rig.start_worker()
        archiver = rig.start_worker(*recsys_command("stream", "archive", "--json"))
        send(rig, streamed, WORLD.start_ms + 3 * MS_PER_DAY)
        sent = rig.appended()
        rig.wait_until(
            lambda: sum(place.offset for place in read_checkpoint(lake).values()) >= sent, WAIT_S, "archiving"
        )
        rig.stop_worker(archiver)

        monkeypatch.setenv("RECSYS_HOME", str(rig.home))
        monkeypatch.setenv("RECSYS_REDIS_URL", rig.redis.url)
        monkeypatch.setenv("RECSYS_KAFKA_BOOTSTRAP", rig.kafka.bootstrap)
        monkeypatch.setenv("RECSYS_PARTITIONS", str(PARTITIONS))
        command = ["backfill", "--namespace", NAMESPACE, "--master", "local[1]", "--memory", "1g", "--json"]
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        loaded = json.loads(done.stdout)
        assert (loaded["users"], loaded["items"], loaded["present"]) == (
            len(WORLD.users),
            len(WORLD.items),
            0,
        )

        # meanwhile, and afterwards: more events, and retries of old ones; the live worker applies them, too
        send(rig, [*retried, *later], END_MS)
        rig.start_worker(namespace=NAMESPACE)
        other = RedisFeatureStore(rig.redis.url, FEATURES, StoreConfig(PARTITIONS), NAMESPACE)
        for store in (rig.store, other):
            rig.wait_until(lambda s=store: applied(s) >= rig.appended(), WAIT_S, "applying")  # type: ignore[misc]
        found, expected = states(other, END_MS), states(rig.store, END_MS)
        other.close()
    assert found == expected
    assert all(state.cells for state in expected.values())
