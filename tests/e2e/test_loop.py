"""The whole loop with real parts, by the commands that a user types, while its processes are killed.

Import → replay through Kafka → Spark → train → publish → serve → click. Worker, API, Redis and Apache Kafka are killed
(-9) and restarted once each while events arrive; afterwards every counter in Redis must equal the fold of what was
accepted.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from infra.demo import click_and_watch
from infra.local.apache_kafka import ApacheKafka
from infra.local.children import Children
from infra.local.kafka import KafkaBroker
from infra.local.memory_kafka import MemoryKafka
from infra.local.redis import Persistence, RedisServer
from infra.loop import Api, Outcome, serve
from recsys.bundle import versions
from recsys.contracts.errors import Unavailable
from recsys.contracts.events import Event, parse_event
from recsys.contracts.state import EntityState
from recsys.contracts.types import EventType, Topic
from recsys.features.aggregates import TILE_MARK
from recsys.features.definitions import FEATURES, SHOWN
from recsys.lake.lake import count_rows, read_events
from recsys.settings import Settings
from recsys.store.base import FeatureStore, StoreConfig
from recsys.store.redis import RedisFeatureStore
from training.warm_start import read_warm_start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.spark,
    pytest.mark.kafka,
    pytest.mark.redis,
    pytest.mark.timeout(1_200),
]

PARTITIONS = 4
USERS, ITEMS, GENRES = 60, 120, 4
DAY_S = 86_400


@pytest.fixture(scope="module")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in MovieLens-100K's layout: users with one favourite genre, 25 ratings each over 60 days."""
    folder, rng = tmp_path_factory.mktemp("ml"), np.random.default_rng(0)
    names = ["unknown", "Action", "Comedy", "Drama", "Horror", *(f"g{n}" for n in range(14))]
    (folder / "u.genre").write_text("".join(f"{name}|{n}\n" for n, name in enumerate(names)))
    flags = {item: 1 + item % GENRES for item in range(1, ITEMS + 1)}
    (folder / "u.item").write_text(
        "".join(
            f"{item}|Film {item} (1990)|01-Jan-1990||http://x|"
            + "|".join(str(int(n == g)) for n in range(19))
            + "\n"
            for item, g in flags.items()
        ),
        encoding="latin-1",
    )
    rows = []
    for user in range(1, USERS + 1):
        taste = np.where([flags[i] == 1 + user % GENRES for i in range(1, ITEMS + 1)], 10.0, 1.0)
        liked = rng.choice(np.arange(1, ITEMS + 1), 25, replace=False, p=taste / taste.sum())
        times = np.sort(rng.integers(880_000_000, 880_000_000 + 60 * DAY_S, 25))
        rows += [f"{user}\t{item}\t{rng.integers(3, 6)}\t{t}\n" for item, t in zip(liked, times, strict=True)]
    (folder / "u.data").write_text("".join(rows))
    (folder / "u.user").write_text("".join(f"{u}|30|M|other|00000\n" for u in range(1, USERS + 1)))
    return folder


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", Persistence.AOF) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> KafkaBroker:
    """Apache Kafka; without its jars, the one in memory, which is not killed: its log ends with it."""
    try:
        return ApacheKafka(partitions=PARTITIONS, jars=request.getfixturevalue("apache_jars"))
    except pytest.skip.Exception:
        return MemoryKafka(partitions=PARTITIONS)


@pytest.fixture
def children(home: Path, redis: RedisServer, kafka: KafkaBroker) -> Iterator[Children]:
    with kafka:
        environ = {
            "RECSYS_HOME": str(home),
            "RECSYS_REDIS_URL": redis.url,
            "RECSYS_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "RECSYS_PARTITIONS": str(PARTITIONS),
            "OMP_NUM_THREADS": "1",
        }
        with Children(home / "logs", environ) as owned:
            yield owned


@pytest.fixture
def store(redis: RedisServer) -> Iterator[FeatureStore]:
    opened = RedisFeatureStore(redis.url, FEATURES, StoreConfig(partitions=PARTITIONS))
    yield opened
    opened.close()


def applied(store: FeatureStore, topic: Topic = Topic.EVENTS) -> int:
    try:
        return sum(c.offset for p in range(PARTITIONS) if (c := store.checkpoint(topic, p)))
    except Unavailable:
        return -1


def click(user: int, item: int, n: int) -> Event:
    raw = {
        "event_id": f"click-{user}-{item}-{n}",
        "type": "click",
        "user_id": str(user),
        "item_id": str(item),
        "event_time_ms": time.time_ns() // 1_000_000,
        "context": {"categories": f"g{item % GENRES}"},
    }
    return parse_event(raw)


def bundle_of(api: Api) -> str:
    """The version that answers."""
    answer = httpx.post(f"{api.url}/v1/recommendations", json={"user_id": "1", "k": 1}, timeout=10.0)
    return str(answer.raise_for_status().json()["bundle"])


def send(api: Api, events: list[Event]) -> list[Event]:
    """The events that were accepted: those of an answer that never came are sent again, under the same ids."""
    deadline = time.monotonic() + 60
    while True:
        try:
            api.send([e.to_dict() for e in events])
            return events
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the API never came back"
            time.sleep(0.2)


def test_the_loop_closes_and_survives_kills(
    children: Children,
    home: Path,
    movielens: Path,
    redis: RedisServer,
    kafka: KafkaBroker,
    store: FeatureStore,
) -> None:
    lake = Settings(home=home).lake
    children.run("data", "import", str(movielens), "--shift-to-now")
    imported = count_rows(lake)
    assert imported == USERS * 25
    children.start("worker", "stream", "worker")
    children.start("archive", "stream", "archive")
    children.run("stream", "replay", "--speed", "0")
    children.wait("worker", lambda: applied(store) >= imported, 120)

    children.run("features", "build")
    children.run("train", "all", "--recall-epochs", "3", "--rank-epochs", "1")
    api = serve(children)

    outcome = Outcome()
    click_and_watch(api, "1", outcome)
    assert [i["item_id"] for i in outcome.after] != [i["item_id"] for i in outcome.before]
    assert not {i["item_id"] for i in outcome.clicked} & {i["item_id"] for i in outcome.after}
    children.wait("worker", lambda: applied(store) >= imported + len(outcome.clicked), 60)

    sent: list[Event] = []

    def storm(n: int) -> None:
        for user in range(1, USERS + 1):
            sent.extend(send(api, [click(user, 1 + (user * 7 + i) % ITEMS, n) for i in range(5)]))

    storm(0)
    children.kill("worker")
    storm(1)
    children.start("worker", "stream", "worker")
    storm(2)
    redis.kill()
    storm(3)  # accepted while the store is away
    redis.start()
    if isinstance(kafka, ApacheKafka):
        kafka.kill()
        storm(5)  # waits in the API's outbox
        kafka.start()
    children.kill("api")
    children.start("api", "serve", "--port", api.url.rsplit(":", 1)[1])
    storm(4)
    everything = imported + len(outcome.clicked) + len(sent)
    children.wait("worker", lambda: applied(store) >= everything, 120)
    children.wait("archive", lambda: len(sent_events(lake)) >= everything, 60)

    log = sent_events(lake)
    assert len(log) == everything
    assert {e.event_id for e in sent} <= {e.event_id for e in log}
    assert_counters(store, log)
    assert_a_night_goes_on(children, Settings(home=home), api)


def assert_a_night_goes_on(children: Children, settings: Settings, api: Api) -> None:
    """What came since the training is learnt by both models, and another bundle is swapped in without a restart."""
    served, published = bundle_of(api), versions(settings.bundles)
    children.run("features", "build")
    children.run("train", "nightly", "--seed", "3")
    assert len(versions(settings.bundles)) == len(published) + 1
    children.wait("api", lambda: bundle_of(api) != served, 60)
    for model in ("two_tower", "ranker"):
        work = settings.home / "work" / model
        assert read_warm_start(work).nights == 1
        assert json.loads((work / "summary.json").read_text())["seed"] == 3


def sent_events(lake: Path) -> list[Event]:
    """The lake's log without what the archiver made of the impression log."""
    return [event for event in read_events(lake) if event.type is not EventType.IMPRESSION]


def assert_counters(store: FeatureStore, log: list[Event]) -> None:
    """Every lifetime counter of events in Redis equals the fold of the lake's log, each event once.

    Tiles are left out (the parity bench compares them), and so is what was shown: that is another topic.
    """
    users: dict[str, EntityState] = defaultdict(EntityState)
    items: dict[str, EntityState] = defaultdict(EntityState)
    counted: set[bytes] = set()
    for event in log:
        folded = FEATURES.fold(event)
        for delta in folded.user:
            users[event.user_id].change(delta)
        for delta in folded.of_item(counted):
            items[event.item_id].change(delta)
    for user, state in users.items():
        assert lifetime(store.user(user)) == lifetime(state), user
    for found, (item, state) in zip(store.items(list(items)), items.items(), strict=True):
        assert lifetime(found) == lifetime(state), item


def lifetime(state: EntityState) -> dict[str, int]:
    shown = SHOWN.name
    return {c: n for c, n in state.cells.items() if TILE_MARK not in c and not c.startswith(shown)}
