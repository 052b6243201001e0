"""The item feed: columns equal the store, whatever happens between loading and following."""

import threading
from collections.abc import Iterable, Iterator

import pytest

from recsys.contracts.errors import Unavailable
from recsys.contracts.state import EntityState
from recsys.contracts.types import Item
from serving.engine.item_feed import ItemFeed
from tests.serving.waiting import eventually


class Store:
    """The part of a feature store that the feed reads; a cursor is a number of changes."""

    def __init__(self) -> None:
        self.states: dict[str, int] = {}
        self.entries: dict[str, Item | None] = {}
        self.changes: list[str] = []
        self.first_kept = 0
        self.away = False
        self.away_after_catalogue = False  # once: the next read after that of changed entries raises
        self.full_reads = 0
        self.before_all_items = threading.Event()
        self.before_all_items.set()

    def change(self, item_id: str, count: int) -> None:
        self.states[item_id] = count
        self.changes.append(item_id)

    def items(self, item_ids: list[str]) -> list[EntityState]:
        self._check()
        if self.away_after_catalogue:
            self.away_after_catalogue = False
            raise Unavailable("away between two reads")
        return [EntityState({"n": self.states[item_id]}) for item_id in item_ids]

    def catalogue(self, item_ids: list[str] | None = None) -> Iterator[tuple[str, Item | None]]:
        self._check()
        yield from ((i, item) for i, item in self.entries.items() if item_ids is None or i in item_ids)

    def all_items(self) -> Iterator[tuple[str, EntityState]]:
        self._check()
        self.full_reads += 1
        snapshot = dict(self.states)
        self.before_all_items.wait(20)
        for item_id, count in snapshot.items():
            yield item_id, EntityState({"n": count})

    def changed_items(self, cursor: str, block_ms: int) -> tuple[str, set[str] | None]:
        self._check()
        end = len(self.changes)
        if not cursor:
            return str(end), set()
        if int(cursor) < self.first_kept:
            return str(end), None
        return str(end), set(self.changes[int(cursor) : end])

    def _check(self) -> None:
        if self.away:
            raise Unavailable("away")


class Columns:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.entries: dict[str, Item | None] = {}

    def apply(
        self, entries: Iterable[tuple[str, Item | None]], states: Iterable[tuple[str, EntityState]]
    ) -> None:
        self.entries.update(entries)
        self.counts.update({item_id: state.cells["n"] for item_id, state in states})

    def refresh(self, now_ms: int) -> None:
        pass


class Failing(Columns):
    """Raises while `broken`, in what its name says."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self.step = step
        self.broken = True
        self.tries = 0

    def apply(
        self, entries: Iterable[tuple[str, Item | None]], states: Iterable[tuple[str, EntityState]]
    ) -> None:
        super().apply(entries, states)
        self._fail("apply")

    def refresh(self, now_ms: int) -> None:
        self._fail("refresh")

    def _fail(self, step: str) -> None:
        if step == self.step:
            self.tries += 1
            if self.broken:
                raise ValueError("cannot take this")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def feed(store: Store) -> Iterator[ItemFeed]:
    feed = ItemFeed(store, lambda: 0)  # type: ignore[arg-type]
    feed.start()
    yield feed
    feed.close()


def test_columns_are_loaded_then_follow(store: Store, feed: ItemFeed) -> None:
    store.change("a", 1)
    columns = Columns()
    assert feed.attach(columns, 20)
    assert columns.counts == {"a": 1}
    store.change("a", 2)
    store.change("b", 1)
    eventually(lambda: columns.counts == {"a": 2, "b": 1})


def test_a_change_while_loading_is_not_lost(store: Store, feed: ItemFeed) -> None:
    store.change("a", 1)
    eventually(lambda: feed.age_s < 1)
    store.before_all_items.clear()
    columns = Columns()
    attached = threading.Thread(target=feed.attach, args=(columns,))
    attached.start()
    eventually(lambda: store.full_reads == 1)
    store.change("a", 2)  # after the snapshot was read, before it is loaded
    store.before_all_items.set()
    attached.join()
    eventually(lambda: columns.counts == {"a": 2})


def test_after_a_gap_in_the_changes_everything_is_read_again(store: Store, feed: ItemFeed) -> None:
    columns = Columns()
    assert feed.attach(columns, 20)
    reads = store.full_reads
    store.away = True
    eventually(lambda: feed.age_s > 0.1)
    store.change("a", 7)
    store.change("b", 8)
    store.first_kept = len(store.changes)  # the changes themselves are forgotten
    store.away = False
    eventually(lambda: columns.counts == {"a": 7, "b": 8})
    assert store.full_reads == reads + 1


def test_changes_are_not_lost_when_the_store_goes_away_between_two_reads(
    store: Store, feed: ItemFeed
) -> None:
    columns = Columns()
    assert feed.attach(columns, 20)
    reads = store.full_reads
    store.away_after_catalogue = True
    store.entries["a"] = None
    store.change("a", 7)
    eventually(lambda: columns.counts == {"a": 7})
    assert columns.entries == {"a": None}
    assert not store.away_after_catalogue
    assert store.full_reads == reads, "the change was read again, not everything"


def test_the_age_grows_while_the_store_is_away_and_falls_when_it_is_back(
    store: Store, feed: ItemFeed
) -> None:
    columns = Columns()
    assert feed.attach(columns, 20)
    store.away = True
    eventually(lambda: feed.age_s > 0.5)
    store.away = False
    eventually(lambda: feed.age_s < 0.3)


def test_attaching_while_the_store_is_away_loads_when_it_is_back(store: Store, feed: ItemFeed) -> None:
    store.states["a"] = 3
    store.away = True
    columns = Columns()
    assert not feed.attach(columns, 0.05)
    store.away = False
    eventually(lambda: columns.counts == {"a": 3})


def test_detached_columns_stay_as_they_were(store: Store, feed: ItemFeed) -> None:
    old, new = Columns(), Columns()
    assert feed.attach(old, 20)
    assert feed.attach(new, 20)
    feed.detach(old)
    store.change("a", 1)
    eventually(lambda: new.counts == {"a": 1})
    assert old.counts == {}


def test_catalogue_entries_come_with_the_load_and_with_the_changes(store: Store, feed: ItemFeed) -> None:
    store.states = {"a": 1, "b": 1}
    store.entries["a"] = Item("a")
    columns = Columns()
    assert feed.attach(columns, 20)
    assert columns.entries == {"a": Item("a")}
    store.entries |= {"a": None, "b": Item("b")}
    store.change("a", 1)
    store.change("b", 1)
    eventually(lambda: columns.entries == {"a": None, "b": Item("b")})


@pytest.mark.slow
@pytest.mark.parametrize("step", ["apply", "refresh"])
def test_a_follower_that_always_raises_is_tried_less_and_less_and_the_others_stay_current(
    store: Store, feed: ItemFeed, step: str
) -> None:
    good, bad = Columns(), Failing(step)
    assert feed.attach(good, 20)
    assert not feed.attach(bad, 20)
    assert feed.error == "ValueError: cannot take this"
    store.change("a", 1)
    eventually(lambda: good.counts == {"a": 1})
    eventually(lambda: bad.tries >= 3)
    eventually(lambda: feed.age_s > 0.5)
    waits = next(entry for entry in feed._snapshot() if entry.follower is bad)
    assert waits.well_at - waits.retry_at >= 2.0  # after 0.5 and 1 s
    bad.broken = False
    store.change("a", 2)
    eventually(lambda: bad.counts == good.counts == {"a": 2})
    eventually(lambda: feed.error == "" and feed.age_s < 0.3)
