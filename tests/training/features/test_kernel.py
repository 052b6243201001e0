"""The job's kernels on a bucket: every feature of every example equals brute force; histories and labels too."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from recsys.contracts import state
from recsys.contracts.events import Event
from recsys.contracts.merges import Merges, UserMerge
from recsys.contracts.types import ENGAGEMENT, MS_PER_DAY, MS_PER_HOUR, EventType, Item, User
from recsys.features import assemble, event_columns, windows
from recsys.features.definitions import FEATURES
from recsys.features.reference import ReferenceSource, reference_features
from recsys.store.union import StateUnion
from tests.recsys.features.test_tally import streamed_tally, tally_by_brute_force
from tests.recsys.features.test_three_ways import assembled, folded_user, streamed
from tests.recsys.features.worlds import START_MS, catalogue, population, random_log, sparse_logs
from tests.training.features.feature_rows import event_rows, with_items, with_users
from training.features.event_counts import EventCounts
from training.features.kernel import EXAMPLE_SCHEMA, REQUEST_TEXTS, item_side, user_side
from training.features.labels import LabelConfig, label
from training.features.members import NO_MERGES
from training.features.negatives import Popularity, returning
from training.features.packing import matrix_of, unpacked
from training.features.sequences import sequences
from training.features.user_log import NEVER_MS, UserLog

CONTEXT = tuple(REQUEST_TEXTS.values())
ALWAYS = LabelConfig(first_ms=0, end_ms=START_MS + 365 * MS_PER_DAY)


def built(
    events: list[Event],
    users: list[User],
    items: list[Item],
    config: LabelConfig = ALWAYS,
    merges: Merges = NO_MERGES,
) -> pa.Table:
    rows = event_rows(events)
    bare = with_items(label(rows, config, CONTEXT), items)
    return unpacked(user_side(with_users(item_side(bare, rows), users), rows, merges))


@pytest.mark.parametrize("seed", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_examples_equal_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    users, items = population(rng), catalogue(rng)
    events = random_log(rng, users, items, 250, rng.choice([MS_PER_HOUR, 5 * MS_PER_DAY, 40 * MS_PER_DAY]))
    repeated = events + rng.sample(events, 40)
    rng.shuffle(repeated)
    assert_equal_brute_force(built(repeated, users, items), users, items, events)


def random_merges(rng: random.Random, users: list[User], n: int, span_ms: int) -> Merges:
    """Among them chains, circles, repeats, and ids that belong to another user already."""
    pairs = (rng.sample(users, 2) for _ in range(n))
    return Merges(UserMerge(a.user_id, b.user_id, START_MS + rng.randrange(span_ms)) for a, b in pairs)


def test_examples_of_merged_users_equal_brute_force() -> None:
    rng = random.Random(2)
    users, items = population(rng, 5), catalogue(rng, 4)
    events = random_log(rng, users, items, 90, 5 * MS_PER_DAY)
    merges = random_merges(rng, users, 6, 5 * MS_PER_DAY)
    times = [e.event_time_ms for e in events]
    assert len({tuple(merges.members(u.user_id, now)) for u in users for now in times}) > 6
    repeated = events + rng.sample(events, 20)
    rng.shuffle(repeated)
    assert_equal_brute_force(built(repeated, users, items, ALWAYS, merges), users, items, events, merges)


def test_examples_of_merged_users_are_what_the_stream_has() -> None:
    """The third way: the union of the folded states of the members, as a store answers."""
    rng = random.Random(4)
    users, items = population(rng, 4), catalogue(rng, 4)
    events = random_log(rng, users, items, 200, MS_PER_DAY)
    merges = random_merges(rng, users, 5, MS_PER_DAY)
    others = [place for place, name in enumerate(FEATURES.names) if name != "tab"]
    table = built(events, users, items, ALWAYS, merges).to_pylist()
    sample = [e for e in table if len(merges.members(e["user_id"], e["event_time_ms"])) > 1]
    assert len(sample) > 10
    for example in sample:
        user = next(u for u in users if u.user_id == example["user_id"])
        item, now = next(i for i in items if i.item_id == example["item_id"]), example["event_time_ms"]
        before = [e for e in events if e.event_time_ms < now]
        members = {id_: folded_user(before, User(id_)) for id_ in merges.members(user.user_id, now)}
        state = StateUnion(FEATURES).of(members)
        [values] = assembled(state, before, user, items, now)[[items.index(item)]]
        np.testing.assert_array_equal(values[others], np.frombuffer(example["features"], "<f4")[others])


def test_merged_users_have_one_sequence() -> None:
    clicks = [event(CLICK, n, item=f"i{n}", user=user) for n, user in enumerate("auabz")]
    merges = Merges([UserMerge("a", "u", START_MS), UserMerge("u", "b", 2 * START_MS)])
    rows = sequences(event_rows(clicks), merges).to_pylist()
    assert {row["user_id"]: row["items"] for row in rows} == {"b": ["i0", "i1", "i2", "i3"], "z": ["i4"]}


@settings(max_examples=50)
@given(sparse_logs())
def test_examples_of_sparse_logs_equal_brute_force(log: tuple[list[User], list[Item], list[Event]]) -> None:
    users, items, events = log
    assert_equal_brute_force(built(events, users, items), users, items, events)
    assert sequences(event_rows(events)).num_rows == len({e.user_id for e in events if e.type in ENGAGEMENT})


def assert_equal_brute_force(
    table: pa.Table,
    users: list[User],
    items: list[Item],
    events: list[Event],
    merges: Merges = NO_MERGES,
) -> None:
    assert table.schema.equals(EXAMPLE_SCHEMA)
    shown = {e.event_id: e for e in events if e.type is EventType.IMPRESSION}
    assert table.num_rows >= len(shown)
    matrix = matrix_of(table.column("features"), FEATURES.dimension)
    for row, example in enumerate(table.to_pylist()):
        user = next(u for u in users if u.user_id == example["user_id"])
        item = next(i for i in items if i.item_id == example["item_id"])
        now = example["event_time_ms"]
        _, *merged = ids = merges.members(user.user_id, now)
        expected = reference_features(
            FEATURES, ReferenceSource(events, user, item, now, {"tab": "1"}, merged)
        )
        wrong = np.flatnonzero(matrix[row].view(np.uint32) != expected.view(np.uint32))
        assert not wrong.size, [(FEATURES.names[i], matrix[row, i], expected[i]) for i in wrong]
        before = [e for e in events if e.user_id in ids and e.event_time_ms < now and e.type in ENGAGEMENT]
        before = sorted(before, key=lambda e: (e.event_time_ms, e.event_id, e.user_id))[-50:]
        assert tally_of(example) == tally_by_brute_force(events, user, item, now, merged)
        assert example["history_items"] == [e.item_id for e in before]
        assert example["history_types"] == [e.type for e in before]
        assert example["history_times"] == [e.event_time_ms for e in before]


def tally_of(example: dict[str, Any]) -> dict[int, tuple[int, int]]:
    looks_and_clicks = zip(example["tally_looks"], example["tally_clicks"], strict=True)
    assert example["tally_buckets"] == sorted(example["tally_buckets"])
    return dict(zip(example["tally_buckets"], looks_and_clicks, strict=True))


@pytest.fixture
def small_sums(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums so small that four events fill a decayed tile."""
    for module in (state, event_columns, windows):
        monkeypatch.setattr(module, "MAX_SUM", 1 << 18)
    assemble._plan.cache_clear()  # it holds what the limit makes of each window
    yield
    assemble._plan.cache_clear()


@pytest.mark.usefixtures("small_sums")
def test_sums_at_their_limit_are_those_of_the_stream() -> None:
    rng = random.Random(5)
    users, items = population(rng, 2), catalogue(rng, 3)
    events = random_log(rng, users, items, 300, MS_PER_HOUR)
    table = built(events, users, items).to_pylist()
    others = [place for place, name in enumerate(FEATURES.names) if name != "tab"]
    for example in rng.sample(table, 40):
        user = next(u for u in users if u.user_id == example["user_id"])
        item = next(i for i in items if i.item_id == example["item_id"])
        now = example["event_time_ms"]
        before = [e for e in events if e.event_time_ms < now]
        assert tally_of(example) == streamed_tally(before, user, now)
        [values] = streamed(before, user, items, now)[[items.index(item)]]
        np.testing.assert_array_equal(values[others], np.frombuffer(example["features"], "<f4")[others])


def event(
    kind: EventType,
    minutes: float,
    item: str = "a",
    request: str | None = None,
    value: float | None = None,
    user: str = "u",
) -> Event:
    time = START_MS + int(minutes * 60_000)
    name = f"{kind}-{user}-{item}-{minutes}-{request}"
    return Event(name, kind, user, item, time, request_id=request, value=value)


def labels(events: list[Event], config: LabelConfig = ALWAYS) -> dict[str, tuple[int, int, int, int]]:
    """example id → click, conversion, like, dwell."""
    table = label(event_rows(events), config, CONTEXT)
    return {
        r["example_id"]: (r["click"], r["conversion"], r["like"], r["dwell_ms"]) for r in table.to_pylist()
    }


IMPRESSION, VIEW, CLICK, DWELL = EventType.IMPRESSION, EventType.VIEW, EventType.CLICK, EventType.DWELL
LIKE, PURCHASE, RATING, DISLIKE = EventType.LIKE, EventType.PURCHASE, EventType.RATING, EventType.DISLIKE


def test_an_outcome_that_names_its_request_belongs_to_that_impression() -> None:
    first, second = event(IMPRESSION, 0, request="r1"), event(IMPRESSION, 10, request="r2")
    found = labels(
        [
            first,
            second,
            event(CLICK, 11, request="r1"),
            event(DWELL, 12, request="r2", value=700.4),
            event(DWELL, 13, request="r2", value=300.0),
            event(PURCHASE, 14, request="r3"),  # of a request whose impression is not in the log
            event(LIKE, 15, request="r1", item="b"),  # an item that r1 did not show
        ]
    )
    assert found == {first.event_id: (1, 0, 0, 0), second.event_id: (0, 0, 0, 1000)}


def test_an_outcome_without_a_request_belongs_to_the_latest_impression_within_the_window() -> None:
    first, second = event(IMPRESSION, 0, request="r1"), event(IMPRESSION, 60, request="r2")
    other = event(IMPRESSION, 70, request="r3", user="v")
    day = 24 * 60
    found = labels([first, second, other, event(CLICK, 30), event(LIKE, 60), event(PURCHASE, 61 + day)])
    assert found[first.event_id] == (1, 0, 0, 0)
    assert found[second.event_id] == (0, 0, 1, 0)  # the purchase came too late
    assert found[other.event_id] == (0, 0, 0, 0)


def test_of_types_that_name_requests_the_others_label_nothing() -> None:
    """A click from a search is none of the list's; an order, which never names its list, still is."""
    shown, named = event(IMPRESSION, 0, request="r1"), event(IMPRESSION, 1, "b", request="r1")
    events = [shown, named, event(CLICK, 2), event(CLICK, 3, "b", request="r1"), event(PURCHASE, 4)]
    config = replace(ALWAYS, only_named=frozenset({CLICK}))
    found = labels(events, config)
    assert found == {shown.event_id: (1, 1, 0, 0), named.event_id: (1, 0, 0, 0)}
    assert labels(events[:-1], config)[shown.event_id] == (0, 0, 0, 0)
    assert labels(events[:-1])[shown.event_id] == (1, 0, 0, 0)


def test_a_view_labels_nothing_with_and_without_impressions() -> None:
    shown = event(IMPRESSION, 0, request="r1")
    seen = [event(VIEW, 1), event(VIEW, 2, request="r1"), event(VIEW, 3, "b")]
    unshown = EventCounts({("2026-01-01", "view", True): 1, ("2026-01-01", "click", True): 1}).unshown
    assert labels([shown, *seen]) == {shown.event_id: (0, 0, 0, 0)}
    assert labels(seen, replace(ALWAYS, unshown=unshown)) == {}
    assert CLICK in unshown


def test_nothing_follows_from_what_came_before() -> None:
    shown = event(IMPRESSION, 10, request="r1")
    assert labels([event(CLICK, 9, request="r1"), event(LIKE, 9), shown]) == {shown.event_id: (0, 0, 0, 0)}


def test_ratings_without_impressions_are_positives() -> None:
    good, bad, great = (
        event(RATING, 0, value=4.0),
        event(RATING, 1, "b", value=2.0),
        event(RATING, 2, "c", value=5.0),
    )
    found = labels([good, bad, great, event(CLICK, 3, "d")])
    assert found == {good.event_id: (1, 1, 0, 0), bad.event_id: (1, 0, 0, 0), great.event_id: (1, 1, 1, 0)}


def test_a_dislike_is_a_negative_of_its_own() -> None:
    popularity = Popularity(np.array([START_MS - 1]), np.zeros(1, np.int32), ["z"], [None], [None])
    shown, unshown = event(IMPRESSION, 0), event(DISLIKE, 1, "b", value=1.0)
    rated = event(RATING, 2, "c", value=3.0)
    table = label(event_rows([shown, event(DISLIKE, 5), unshown, rated]), ALWAYS, CONTEXT, popularity)
    rows = {(r["item_id"], r["sampled"]): (r["click"], r["conversion"], r["like"]) for r in table.to_pylist()}
    assert rows == {
        ("a", False): (0, 0, 0),
        ("b", False): (0, 0, 0),
        ("c", False): (1, 0, 0),
        ("z", True): (0, 0, 0),
    }


def test_a_rating_that_an_impression_accounts_for_is_its_label() -> None:
    shown = event(IMPRESSION, 0)
    assert labels([shown, event(RATING, 5, value=4.5)]) == {shown.event_id: (1, 1, 0, 0)}


def test_only_the_days_asked_for() -> None:
    events = [event(IMPRESSION, 24 * 60 * day, request=str(day)) for day in range(3)]
    config = LabelConfig(first_ms=START_MS + MS_PER_DAY, end_ms=START_MS + 2 * MS_PER_DAY)
    assert list(labels(events, config)) == [events[1].event_id]


def test_negatives_were_popular_before_and_unknown_to_the_user() -> None:
    rng = random.Random(3)
    times = np.arange(100) + START_MS
    items = np.array([rng.choice([0, 0, 0, 1, 2, 3]) for _ in times], np.int32)
    items[50:] = 4  # popular, but only later
    popularity = Popularity(times, items, ["a", "b", "c", "d", "e"], ["A", None, "C", "D", "E"], [None] * 5)
    events = [Event(f"e{u}", RATING, f"u{u}", "a", START_MS + 50, value=5.0) for u in range(200)] + [
        Event(f"k{u}", RATING, f"u{u}", "b", START_MS + 10, value=1.0) for u in range(200)
    ]
    config = LabelConfig(START_MS + 50, START_MS + 51, negatives=2)
    table = label(event_rows(events), config, CONTEXT, popularity)
    again = label(event_rows(list(reversed(events))), config, CONTEXT, popularity)
    assert table.equals(again), "the same whatever the order of the rows"
    drawn = [r for r in table.to_pylist() if r["sampled"]]
    assert {r["item_id"] for r in drawn} == {"c", "d"}
    assert all(r["click"] == 0 and r["categories"] == r["item_id"].upper() for r in drawn)
    assert len({r["example_id"] for r in drawn}) == len(drawn) > 200
    per_user = {(r["user_id"], r["item_id"]) for r in drawn}
    assert len(per_user) == len(drawn), "no item twice for one positive"


def test_where_people_come_back_what_they_know_is_drawn_too() -> None:
    """u engaged with a, b and c days ago, and with d within the window; e is popular and nobody's."""
    days_ago = [event(CLICK, -60 * 24 * (9 - day), item) for day, item in enumerate("abc")]
    chosen, soon = event(CLICK, 0, "a"), event(CLICK, 60, "d")
    ids = ["a", "b", "c", "d", "e"]
    popularity = Popularity(
        np.full(50, START_MS - 30 * MS_PER_DAY),
        np.arange(50, dtype=np.int32) % 5,
        ids,
        [None] * 5,
        [None] * 5,
    )
    config = LabelConfig(START_MS, START_MS + 1, unshown=ENGAGEMENT, negatives=4)
    rows = event_rows([*days_ago, chosen, soon])

    def drawn(returning: float) -> list[str]:
        table = label(rows, config, CONTEXT, replace(popularity, returning=returning))
        return [r["item_id"] for r in table.to_pylist() if r["sampled"]]

    assert set(drawn(0.0)) == {"d", "e"}, "what the user did not know yet"
    found = drawn(0.5)
    assert found[0] in {"b", "c"}, "one of the user's own, first"
    assert set(found) <= {"b", "c", "e"}, "not what was chosen, nor what was chosen soon after"
    assert len(found) == len(set(found))


def test_more_pairs_than_fit_into_the_bits_above_a_time() -> None:
    """A code of 2^20 pairs and a time of 43 bits fill an int64."""
    n = (1 << 20) + 5
    ids = pa.array(np.arange(n).astype(str))
    users = pa.array(np.full(n, "u"))
    columns = {
        "user_id": users,
        "item_id": ids,
        "event_time_ms": pa.array(START_MS + np.arange(n)),
        "type": pa.array(np.full(n, "click")),
        "value": pa.nulls(n, pa.float64()),
        "request_id": pa.nulls(n, pa.string()),
    }
    log = UserLog(pa.table(columns))
    asked = ["0", str(n - 1), str(n - 1), "unknown"]
    since = np.array([0, START_MS + n - 1, START_MS + n, 0])
    found = log.next_engaged_ms(pa.chunked_array([["u"] * 4]), asked, since)
    assert found.tolist() == [START_MS, START_MS + n - 1, NEVER_MS, NEVER_MS]


def test_the_share_of_returns_counts_days() -> None:
    users, items = pa.chunked_array([["u", "u", "u", "v", "v"]]), np.array([0, 0, 0, 0, 1], np.int32)
    times = np.array([0, MS_PER_HOUR, 2 * MS_PER_DAY, 0, 0], np.int64)
    assert returning(users, items, times) == 1 / 4
    assert returning(users.slice(0, 0), items[:0], times[:0]) == 0.0


def test_no_negatives_before_anything_was_popular() -> None:
    popularity = Popularity(np.array([START_MS]), np.array([0], np.int32), ["z"], [None], [None])
    table = label(event_rows([event(RATING, 0, value=3.0)]), ALWAYS, CONTEXT, popularity)
    assert table.num_rows == 1


def test_sequences_hold_engagements_oldest_first() -> None:
    events = [
        event(CLICK, 5, "b"),
        event(IMPRESSION, 1, "a"),
        event(RATING, 2, "a", value=1.0),
        event(LIKE, 9, "c", user="v"),
        event(DWELL, 3, "a", value=5.0),
    ]
    rows = sequences(event_rows([*events, events[0]])).to_pylist()
    assert rows == [
        {
            "user_id": "u",
            "items": ["a", "b"],
            "types": ["rating", "click"],
            "times": [START_MS + 120_000, START_MS + 300_000],
        },
        {"user_id": "v", "items": ["c"], "types": ["like"], "times": [START_MS + 540_000]},
    ]
    assert sequences(event_rows([event(IMPRESSION, 0)])).num_rows == 0
