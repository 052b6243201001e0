"""The contract of the catalogue database: one suite, run on SQLite, PostgreSQL (without and with a slot) and MariaDB.

The servers' account may only read and write: the suite also shows that nothing needs more rights.
"""

import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from recsys.catalogue_db.connection import connect
from recsys.catalogue_db.connection import database_url as parsed
from recsys.catalogue_db.database import CatalogueDatabase
from recsys.catalogue_db.outbox import Message, Outbox
from recsys.catalogue_db.tables import OUTBOX, USERS, lane_of
from recsys.contracts.changes import ItemChange, UserChange, parse_item_change, parse_user_change
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import Item, Topic, User
from tests.databases import ALL, SLOT, WITH_SLOT, SlotDatabase, opened

pytestmark = pytest.mark.parametrize("database_url", [*ALL, WITH_SLOT], indirect=True)


@pytest.fixture
def database(database_url: str, request: pytest.FixtureRequest) -> Iterator[CatalogueDatabase]:
    has_slot = request.node.callspec.params["database_url"] == SLOT
    made = SlotDatabase(connect(parsed(database_url, Path()))) if has_slot else opened(database_url)
    yield made
    made.close()


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """Another connection, of a writer that is still under way."""
    made = connect(parsed(database_url, Path()))
    yield made
    made.dispose()


def put(item_id: str, title: str = "", at: int = 1_000) -> ItemChange:
    return ItemChange(item_id, Item(item_id, title), at)


def waiting(database: CatalogueDatabase) -> list[Message]:
    """What the outbox has, and takes away."""
    found: list[Message] = []
    outbox = database.outbox()
    while outbox.backlog().rows:
        with outbox.claim(1_000) as claim:
            found += claim.messages
            claim.delivered()
    return found


def is_on_a_server(database_url: str) -> bool:
    if database_url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time")
    return True


def test_a_change_is_stored_and_waits_for_its_topic(database: CatalogueDatabase) -> None:
    full = Item(
        "i",
        "Title",
        ("Drama", "Crime"),
        "someone",
        7,
        {"colour": "red", "size": "7"},
        8,
        9,
        ("de", "at"),
        {"de": "Titel", "zh-Hant": "片名"},
    )
    headers = [("traceparent", b"00-1")]
    assert database.put_items([ItemChange("i", full, 1_000)], headers) == [ItemChange("i", full, 1_000)]
    assert database.put_users([UserChange("u", User("u", {"age": "31"}), 2_000)]) == [
        UserChange("u", User("u", {"age": "31"}), 2_000)
    ]
    assert list(database.items()) == [ItemChange("i", full, 1_000)]
    assert list(database.users()) == [UserChange("u", User("u", {"age": "31"}), 2_000)]
    item, user = sorted(waiting(database), key=lambda message: message.topic)
    assert (item.topic, item.key, item.headers) == (Topic.ITEMS, "i", headers)
    assert (user.topic, user.key, user.headers) == (Topic.USERS, "u", [])
    # what worker and archiver read the topics with
    assert parse_item_change(orjson.loads(item.value)) == ItemChange("i", full, 1_000)
    assert parse_user_change(orjson.loads(user.value)) == UserChange("u", User("u", {"age": "31"}), 2_000)


def test_the_last_commit_wins_whatever_the_clocks_of_the_writers_say(database: CatalogueDatabase) -> None:
    times = [
        database.put_items([put("i", f"v{n}", at)])[0].changed_ms for n, at in enumerate([500, 500, 3, 900])
    ]
    assert times == [500, 501, 502, 900]
    assert [change.item and change.item.title for change in database.items()] == ["v3"]
    sent = [orjson.loads(message.value) for message in waiting(database)]
    assert [(raw["item"]["title"], raw["changed_ms"]) for raw in sent] == list(
        zip(["v0", "v1", "v2", "v3"], times, strict=True)
    )


def test_a_change_that_is_repeated_leaves_later_ones_alone(database: CatalogueDatabase) -> None:
    database.put_items([put("i", "first", 100)])
    assert database.put_items([put("i", "first", 100)], repeated=True) == [put("i", "first", 100)]
    database.put_items([put("i", "second", 200)])
    lost = put("j", "its answer was lost, and its row was not written", 100)
    assert database.put_items([put("i", "first", 100), lost], repeated=True) == [lost]
    assert list(database.items()) == [put("i", "second", 200), lost]
    sent = [orjson.loads(message.value)["item"]["title"] for message in waiting(database)]
    assert sent == ["first", "first", "second", lost.item and lost.item.title]
    database.put_users([UserChange("u", User("u", {"age": "31"}), 200)])
    assert database.put_users([UserChange("u", User("u", {"age": "30"}), 100)], repeated=True) == []


def test_of_several_changes_of_an_item_in_one_call_the_last_one_counts(database: CatalogueDatabase) -> None:
    stored = database.put_items([put("b", "1"), put("a", "2"), put("b", "3")])
    assert [(c.item_id, c.item and c.item.title) for c in stored] == [("a", "2"), ("b", "3")]
    assert len(waiting(database)) == 2


def test_a_deleted_item_keeps_its_id_and_may_come_back(database: CatalogueDatabase) -> None:
    database.put_items([put("i", "old", 1_000)])
    database.put_items([ItemChange("i", None, 2_000)])
    assert list(database.items()) == [ItemChange("i", None, 2_000)]
    database.put_items([put("i", "new", 3_000)])
    assert list(database.items()) == [put("i", "new", 3_000)]
    assert [orjson.loads(m.value).get("deleted") for m in waiting(database)] == [None, "i", None]


HOSTILE = [
    "a", "A", "ä", "a\u0308x", "ß", "ss", "SS", "%s", "%(x)s", "'; DROP TABLE items; --", '"', "\\", "\\'", "😀" * 128,
    "0", "00", "a b", "null", ":x", "{}", "ﬀ", "ſ", "İ", "i̇",
]  # fmt: skip


def test_ids_are_compared_by_their_bytes_and_texts_come_back_unchanged(database: CatalogueDatabase) -> None:
    changes = [
        ItemChange(text, Item(text, text * (512 // len(text)), (text,), text, 0, {text: text}), n + 1)
        for n, text in enumerate(HOSTILE)
    ]
    assert len(database.put_items(changes)) == len(HOSTILE)
    expected = sorted(changes, key=lambda change: change.item_id.encode())
    assert list(database.items()) == expected
    assert sorted(m.key for m in waiting(database)) == sorted(HOSTILE)


def test_nothing_is_stored_if_the_outbox_takes_no_row(database_url: str) -> None:
    def broken() -> int:
        raise RuntimeError("no clock")

    database = CatalogueDatabase(connect(parsed(database_url, Path())), now_ms=broken)
    with pytest.raises(RuntimeError):
        database.put_items([put("i")])
    assert list(database.items()) == []
    assert waiting(database) == []
    database.close()


def test_many_rows_are_read_page_by_page_in_order(database: CatalogueDatabase) -> None:
    ids = [f"item-{n}" for n in range(1_203)]
    database.load_items([put(item_id) for item_id in ids])
    assert [change.item_id for change in database.items()] == sorted(ids)


def test_loading_keeps_what_is_newer_and_sends_nothing(database: CatalogueDatabase) -> None:
    database.put_items([put("i", "mine", 2_000)])
    waiting(database)
    database.load_items([put("i", "older", 1_999), put("j", "new", 0)])
    assert list(database.items()) == [put("i", "mine", 2_000), put("j", "new", 0)]
    database.load_items([put("i", "same time", 2_000)])
    database.load_users([UserChange("u", User("u", {"a": "b"}), 0)])
    assert next(iter(database.items())) == put("i", "same time", 2_000)
    assert database.outbox().backlog().rows == 0


def test_a_forgotten_user_leaves_a_tombstone_and_nothing_else(database: CatalogueDatabase) -> None:
    database.put_users([UserChange(u, User(u, {"age": "31"}), 1) for u in ("u", "v")])
    database.put_items([put("u")])  # an item of the same id
    database.forget_user("u")
    database.forget_user("u")
    database.forget_user("unknown")
    assert [change.user_id for change in database.users()] == ["v"]
    left = [(m.topic, m.key, bool(m.value)) for m in waiting(database)]
    assert sorted(left) == sorted(
        [
            (Topic.USERS, "v", True),
            (Topic.ITEMS, "u", True),
            (Topic.USERS, "u", False),
            (Topic.USERS, "unknown", False),
        ]
    )


def test_forgetting_waits_for_a_user_that_is_being_written_for_the_first_time(
    database_url: str, database: CatalogueDatabase, engine: sa.Engine
) -> None:
    is_on_a_server(database_url)
    with engine.connect() as writer, ThreadPoolExecutor(1) as pool:
        writer.execute(sa.insert(USERS), [{"user_id": "u", "attributes": {"a": "b"}, "changed_ms": 1}])
        writer.execute(sa.insert(OUTBOX), [_message("u", b"{}")])
        forgetting = pool.submit(database.forget_user, "u")
        with pytest.raises(TimeoutError):
            forgetting.result(0.3)
        writer.commit()
        forgetting.result(10)
    assert list(database.users()) == []
    assert [m.value for m in waiting(database)] == [b""]


def _message(key: str, value: bytes) -> dict[str, Any]:
    return {
        "lane": lane_of(key),
        "topic": "users",
        "key": key,
        "value": value,
        "headers": [],
        "written_ms": 0,
    }


# --- the outbox ---------------------------------------------------------------------------------------------------


def test_what_was_not_delivered_is_claimed_once_more_and_in_the_same_order(
    database: CatalogueDatabase,
) -> None:
    for n in range(5):
        database.put_items([put("i", str(n))])
    outbox = database.outbox()
    with pytest.raises(RuntimeError), outbox.claim(3) as claim:
        first = claim.messages
        raise RuntimeError("the log is away")
    with outbox.claim(3) as claim:
        assert claim.messages == first
        claim.check()
        claim.delivered()
    assert 0 < len(first) <= 3
    sent = [*first, *waiting(database)]
    assert [orjson.loads(m.value)["item"]["title"] for m in sent] == list("01234")


def test_a_row_that_is_committed_later_than_a_larger_number_is_not_lost(
    database_url: str, database: CatalogueDatabase, engine: sa.Engine
) -> None:
    """What a poller of "everything after the last number" loses."""
    is_on_a_server(database_url)
    with engine.connect() as slow:
        slow.execute(sa.insert(OUTBOX), [_message("slow", b"1")])
        database.put_users([UserChange("fast", User("fast"), 1)])
        with database.outbox().claim(100) as claim:
            assert [m.key for m in claim.messages] == ["fast"]
            slow.commit()
            claim.delivered()
    assert [m.key for m in waiting(database)] == ["slow"]


def test_two_relays_never_hold_the_same_lane(database_url: str, database: CatalogueDatabase) -> None:
    database.put_items([put(f"item-{n}") for n in range(200)])
    first, second = database.outbox(), database.outbox()
    with first.claim(1_000) as mine, second.claim(1_000) as also_mine, second.claim(1_000) as theirs:
        lanes = {lane_of(m.key) for m in mine.messages}
        assert lanes
        assert not also_mine.messages  # the same half of the lanes: its next turn is another one
        others = {lane_of(m.key) for m in theirs.messages}
        assert not lanes & others
        is_alone = database_url.startswith("sqlite") or isinstance(database, SlotDatabase)
        assert bool(others) is not is_alone


def test_a_busy_lane_does_not_hold_up_the_others(database: CatalogueDatabase) -> None:
    keys = [f"item-{n}" for n in range(400)]
    database.put_items([put(key) for key in keys])
    outbox, seen = database.outbox(), set[int]()
    for _ in range(4):  # nothing is delivered: the oldest rows stay
        with outbox.claim(1_000) as claim:
            seen |= {lane_of(m.key) for m in claim.messages}
    assert seen == {lane_of(key) for key in keys}


def test_the_backlog_has_an_age(database_url: str) -> None:
    database = CatalogueDatabase(connect(parsed(database_url, Path())), now_ms=lambda: 5_000)
    assert database.outbox().backlog() == Outbox(database._engine).backlog(lambda: 1)
    database.put_items([put("i"), put("j")])
    backlog = database.outbox().backlog(lambda: 7_500)
    assert (backlog.rows, backlog.oldest_s) == (2, 2.5)
    database.close()


def test_concurrent_writers_and_relays_keep_the_order_of_each_key(database: CatalogueDatabase) -> None:
    """Writers take overlapping ids in any order; relays fail now and then."""
    keys = [f"k{n}" for n in range(6)]
    sent: dict[str, list[int]] = defaultdict(list)
    writing = threading.Event()
    writing.set()

    def write(seed: int) -> None:
        rng = random.Random(seed)
        for n in range(25):
            chosen = rng.sample(keys, 3)
            database.put_items([put(key, f"{seed}-{n}", rng.randrange(1, 1_000)) for key in chosen])

    def relay(seed: int) -> None:
        rng, outbox = random.Random(seed), database.outbox()
        while writing.is_set() or outbox.backlog().rows:
            with outbox.claim(7) as claim:
                if rng.random() < 0.3:
                    continue  # it ends before it has delivered anything
                for message in claim.messages:
                    sent[message.key].append(orjson.loads(message.value)["changed_ms"])
                claim.delivered()

    with ThreadPoolExecutor(6) as pool:
        relays = [pool.submit(relay, seed) for seed in range(2)]
        for writer in [pool.submit(write, seed) for seed in range(4)]:
            writer.result(60)
        writing.clear()
        for each in relays:
            each.result(60)
    assert sum(map(len, sent.values())) == 4 * 25 * 3
    for change in database.items():
        times = sent[change.item_id]
        assert times == sorted(set(times)), "each change once, in the order of the commits"
        assert times[-1] == change.changed_ms


# --- rights and outages -------------------------------------------------------------------------------------------


def test_the_account_may_not_change_tables(database_url: str, engine: sa.Engine) -> None:
    is_on_a_server(database_url)
    for statement in (
        "CREATE TABLE mine (n INT)",
        "DROP TABLE items",
        "ALTER TABLE items ADD n INT",
        "TRUNCATE items",
    ):
        with pytest.raises(sa.exc.DBAPIError), engine.begin() as connection:
            connection.execute(sa.text(statement))


def test_a_database_without_tables_says_what_to_do(tmp_path: Path, database_url: str) -> None:
    if not database_url.startswith("sqlite"):
        pytest.skip("the account has no other database")
    database = opened(f"sqlite:///{tmp_path / 'new.db'}")
    with pytest.raises(Unavailable, match="recsys db upgrade"):
        database.put_items([put("secret-id", "secret title")])
    with pytest.raises(Unavailable) as raised:
        list(database.items())
    assert "secret" not in str(raised.value)


def test_a_server_that_is_away_is_named_without_its_password(database_url: str) -> None:
    is_on_a_server(database_url)
    url = parsed(database_url, Path()).set(port=1)
    database = CatalogueDatabase(connect(url, timeout_s=1.0))
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1") as raised:
        database.put_items([put("i")])
    assert str(url.password) not in str(raised.value)
    assert "upgrade" not in str(raised.value)
