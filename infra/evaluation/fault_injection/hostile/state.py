"""Attacks on what is known of users and items: others' clocks, ids and numbers, and foreign values in Redis."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import redis

from infra.evaluation.benchmarks.serve import api, prepare
from infra.evaluation.benchmarks.serving_fixture import bench_items
from infra.evaluation.fault_injection.hostile.attacks import Attack, Broken
from infra.evaluation.stream_rig import PARTITIONS, StreamRig
from recsys.contracts.changes import ItemChange
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import Event
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType, Item, Topic
from recsys.features.definitions import FEATURES
from recsys.lake.lake import read_events
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore
from serving.engine.item_feed import ItemFeed
from streaming.lake_writer.archive import Archiver
from streaming.log import KafkaSource

_PATIENCE_S = 30.0
_encode = msgspec.json.Encoder().encode


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _event(event_id: str, kind: EventType, user: str, item: str, **fields: Any) -> dict[str, Any]:
    return Event(event_id, kind, user, item, _now_ms()).to_dict() | fields


def _held(what: str, holds: bool) -> None:
    if not holds:
        raise Broken(what)


@contextmanager
def _worker(*events: dict[str, Any]) -> Iterator[StreamRig]:
    """A rig whose worker has passed these events and a last honest one of the same user's partition."""
    with StreamRig() as rig:
        rig.start_worker()
        for event in events:
            rig.sink.append(Topic.EVENTS, event["user_id"], _encode(event))
        rig.sink.flush()
        rig.wait_until(lambda: rig.applied() >= len(events), _PATIENCE_S, "applying the events")
        yield rig


def change_of_tomorrow(home: Path) -> str:
    """An item is put with a time of tomorrow, then deleted by someone with the right clock."""
    with _worker() as rig:
        put = ItemChange("i", Item("i", "wrong clock"), _now_ms() + MS_PER_DAY)
        rig.sink.append(Topic.ITEMS, "i", _encode(put.to_dict()))
        rig.sink.flush()
        rig.wait_until(lambda: bool(dict(rig.store.catalogue())), _PATIENCE_S, "storing the item")
        time.sleep(0.01)  # the correction has a later millisecond
        rig.store.change_items([ItemChange("i", None, _now_ms())])
        _held("the deletion had no effect", dict(rig.store.catalogue()) == {"i": None})
    return "the change counts as of its append; the deletion took effect"


def id_of_another_user(home: Path) -> str:
    """Somebody reports a click under the id that another user's purchase will have."""
    place = partition_of("alice", PARTITIONS)
    mallory = next(name for n in range(99) if partition_of(name := f"mallory-{n}", PARTITIONS) == place)
    bought = _event("order-1", EventType.PURCHASE, "alice", "book", value=12.5, request_id="r")
    with _worker(_event("order-1", EventType.CLICK, mallory, "bait"), bought, bought) as rig:
        stored = rig.store.items(["book"])[0].cells
        _held("the purchase does not count", stored.get("convert") == 1)
        with closing(KafkaSource(rig.kafka.connection)) as source:
            archiver, left = Archiver(source, home), 3
            while left:
                left -= archiver.step()
            archiver.flush()
        kept = sorted((event.user_id, event.type) for event in read_events(home))
        _held(f"the lake has {kept}", kept == [("alice", EventType.PURCHASE), (mallory, EventType.CLICK)])
    return "the purchase counts once in the store and is once in the lake"


def numbers_out_of_range(home: Path) -> str:
    """Values that overflow a sum, that are negative, endless or no numbers, and a list of impressions."""
    values = [(EventType.RATING, 1e12), (EventType.DWELL, -1.0), (EventType.DWELL, 1e9)]
    bad = [_event(f"{n}", kind, "mallory", "i", value=value) for n, (kind, value) in enumerate(values)]
    bad.append(_event("i", EventType.IMPRESSION, "mallory", "i"))
    with _worker(*bad, _event("good", EventType.DWELL, "alice", "i", value=1_000)) as rig:
        [state] = rig.store.items(["i"])
        _held(f"the cells are {dict(state.cells)}", state.cells.get("dwellms") == 1_000)
        _held("impressions were counted", not any(cell.startswith("shown") for cell in state.cells))
        _held("a state is damaged", not rig.store.damaged())
    return f"{len(bad)} dead letters; the sums hold the honest event alone"


def sums_at_their_limit(home: Path) -> str:
    """Redis holds the largest sum there can be, and more of it comes."""
    with _worker(_event("1", EventType.DWELL, "alice", "i", value=1_000)) as rig:
        with closing(redis.Redis.from_url(rig.redis.url)) as client:
            key = f"recsys:{{{partition_of('alice', PARTITIONS)}}}:i:i"
            for field, amount in client.hgetall(key).items():
                if amount == b"1000":
                    client.hset(key, field, 2**53 - 500)
        rig.sink.append(
            Topic.EVENTS, "alice", _encode(_event("2", EventType.DWELL, "alice", "i", value=1_000))
        )
        rig.sink.flush()
        rig.wait_until(lambda: rig.applied() >= 2, _PATIENCE_S, "applying the event")
        [state] = rig.store.items(["i"])
        _held(f"the sum is {state.cells.get('dwellms')}", state.cells.get("dwellms") == 2**53 - 1)
    return "the sum stays at 2^53 - 1 and is readable"


class _Follower:
    """What an API process keeps of items: here, their ids."""

    def __init__(self) -> None:
        self.items: set[str] = set()
        self.entries: set[str] = set()
        self.seen = threading.Condition()

    def apply(self, entries: Any, states: Any) -> None:
        with self.seen:
            self.entries |= {item_id for item_id, _ in entries}
            self.items |= {item_id for item_id, state in states if state != EntityState()}
            self.seen.notify_all()

    def refresh(self, now_ms: int) -> None:
        pass


def foreign_values(home: Path) -> str:
    """Another program overwrites a cell of an item and a catalogue entry while an item feed follows."""
    with _worker(*(_event(i, EventType.CLICK, "alice", i) for i in ("spoilt", "sound"))) as rig:
        rig.store.change_items([ItemChange(i, Item(i), _now_ms()) for i in ("spoilt", "sound")])
        with closing(redis.Redis.from_url(rig.redis.url)) as client:
            key = f"recsys:{{{partition_of('alice', PARTITIONS)}}}:i:spoilt"
            client.hset(key, client.hkeys(key)[0], "4.8e+18")
            client.hset("recsys:{c}:catalogue", "spoilt", b"\xff")
        store = RedisFeatureStore(rig.redis.url, FEATURES, StoreConfig(PARTITIONS))
        with closing(store), closing(ItemFeed(store, _now_ms)) as feed:
            feed.start()
            follower = _Follower()
            _held("the feed does not load", feed.attach(follower, _PATIENCE_S))
            rig.store.change_items([ItemChange("later", Item("later"), _now_ms())])
            with follower.seen:
                arrived = follower.seen.wait_for(lambda: "later" in follower.entries, _PATIENCE_S)
            _held("the feed does not follow any more", arrived and not feed.error)
            _held(f"it loaded {follower.items}", follower.items == {"sound"})
            named = store.damaged()
        _held(f"named are {named}", len(named) == 2 and all("spoilt" in name for name in named))
    return "both are named and skipped; the feed follows everything else"


def event_of_tomorrow(home: Path) -> str:
    """A click a day ahead must not make the honest events of its partition late."""
    honest = _event("2", EventType.CLICK, "alice", "i", event_time_ms=_now_ms() - MS_PER_HOUR)
    ahead = _event("1", EventType.CLICK, "alice", "bait", event_time_ms=_now_ms() + 400 * MS_PER_DAY)
    with _worker(ahead, honest) as rig:
        _held("the honest event is missing", len(rig.store.user("alice").histories.get("seen", [])) == 2)
        newest = rig.store.user("alice").histories["seen"][-1].event_time_ms
        _held("a time of the future is stored", newest <= _now_ms())
    return "it counts as of its append; later events are on time"


def announced_items(home: Path) -> str:
    """Sixty items are announced for the next half year, one for the next seconds, and then a new one is added."""
    with StreamRig() as rig:
        prepare(rig, bench_items(80, 0), users=20, history_events=200, seed=0)
        with api(rig, 1, RECSYS_RESULT_CACHE_MS="0") as served, httpx.Client(base_url=served.url) as client:
            soon_ms, later_ms = _now_ms() + 4_000, _now_ms() + 180 * MS_PER_DAY
            dates = {f"announced-{n}": later_ms for n in range(60)} | {"soon": soon_ms}
            entries = [
                {"item_id": i, "categories": ["category-1"], "created_ms": at} for i, at in dates.items()
            ]
            client.post("/v1/items", json={"items": entries}).raise_for_status()
            client.post("/v1/items", json={"item_id": "new", "categories": ["category-1"]}).raise_for_status()

            def listed() -> set[str]:
                answer = client.post("/v1/recommendations", json={"user_id": "anyone", "k": 200}, timeout=30)
                return {item["item_id"] for item in answer.raise_for_status().json()["items"]}

            rig.wait_until(lambda: "new" in listed(), _PATIENCE_S, "listing the new item")
            early = listed() & dates.keys()
            _held(f"{len(early)} announced items are listed", not early or _now_ms() >= soon_ms)
            rig.wait_until(lambda: "soon" in listed(), _PATIENCE_S, "listing an item once it is out")
            _held("it was listed before it was out", _now_ms() >= soon_ms)
            _held("announced items are listed", listed() & dates.keys() == {"soon"})
    return "the new item is listed, none of the announced; the one of this minute is once it is out"


ATTACKS: tuple[Attack, ...] = (
    Attack(
        "streams",
        "an item change stamped a day ahead, then a deletion",
        "DELETE and PUT answered success and changed nothing until that day",
        change_of_tomorrow,
    ),
    Attack(
        "streams",
        "an event stamped 400 days ahead, then an honest one",
        "held: events were clamped to the log's clock, item and user changes were not",
        event_of_tomorrow,
    ),
    Attack(
        "streams",
        "sixty items announced for the next half year, then a new item",
        "they filled the fresh channel: new items were in no list",
        announced_items,
    ),
    Attack(
        "streams",
        "a click under the event id of another user's purchase",
        "the purchase was a duplicate in the store and in the lake's readers",
        id_of_another_user,
    ),
    Attack(
        "streams",
        "ratings of 1e12, negative and endless dwell, impressions reported by a client",
        "all were counted; 480,000 such ratings made the item's cell unreadable",
        numbers_out_of_range,
    ),
    Attack(
        "redis and disks",
        "a sum at its limit grows",
        "it grew inexactly, above 2^63 unreadably: the item feed of every API process ended",
        sums_at_their_limit,
    ),
    Attack(
        "redis and disks",
        "foreign values in an item's cell and in the catalogue",
        "the item feed read everything again for ever and followed nothing",
        foreign_values,
    ),
)
