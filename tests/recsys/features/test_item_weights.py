"""Items whose engagement impressions do not explain look as if they had less of it, and nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.contracts.events import Event
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, NARROWED, EventType
from recsys.features.definitions import FEATURES, WEIGHING
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue
from recsys.pipeline.trending import Trending
from recsys.recall.popular import popularity
from recsys.trust.rules import WHOLE
from tests.bundles import tiny_items

ITEMS = tiny_items(8)
ROWS = np.arange(8, dtype=np.int32)
NOW = 1_750_000_000_000
PUSHED = 4


def state(row: int, shown: int, clicking: int, request: str | None = "r", narrowed: int = 0) -> EntityState:
    """Of an item that some users were shown and others clicked on, within the hour. `narrowed`: of `shown`."""
    found, counted = EntityState(), set[bytes]()
    for kind, users in ((EventType.IMPRESSION, shown), (EventType.CLICK, clicking)):
        for user in range(users):
            at_ms, item_id = NOW - user - 1, ITEMS[row].item_id
            mark = NARROWED if kind is EventType.IMPRESSION and user < narrowed else None
            named = Event(f"{kind}{row}-{user}", kind, f"u{user}", item_id, at_ms, request, value=mark)
            for delta in FEATURES.fold(named).of_item(counted):
                found.change(delta)
    return found


def pair() -> tuple[ItemColumns, ItemColumns]:
    """With and without weights, of four items that are shown and clicked on."""
    both = ItemColumns(ITEMS, FEATURES, WEIGHING), ItemColumns(ITEMS, FEATURES)
    for columns in both:
        for row, clicking in enumerate((40, 30, 20, 12)):
            columns.update(ITEMS[row].item_id, state(row, 300, clicking))
        columns.refresh(NOW)
        columns.weigh()
    return both


def value(columns: ItemColumns, name: str) -> list[float]:
    place = [FEATURES.names[n] for n in columns.columns].index(name)
    return [float(each) for each in columns.column(place, ROWS, NOW)]


def test_honest_items_keep_every_value() -> None:
    weighed, whole = pair()
    assert (weighed.values(ROWS, NOW) == whole.values(ROWS, NOW)).all()


@pytest.mark.parametrize("request_id", ["made-up", None])
def test_a_pushed_item_has_as_much_as_its_impressions_explain(request_id: str | None) -> None:
    weighed, whole = pair()
    for columns in (weighed, whole):
        columns.update(ITEMS[PUSHED].item_id, state(PUSHED, 30, 200, request_id))
    assert value(whole, "item_engaged_decay7d")[PUSHED] == 200
    # at once, by the rate of before: 102 of 1,200, four times that of 30 impressions, and 3
    assert 13 <= value(weighed, "item_engaged_decay7d")[PUSHED] <= 13.2
    weighed.weigh()
    assert 13 <= value(weighed, "item_engaged_decay7d")[PUSHED] <= 16
    assert value(weighed, "item_shown_7d") == value(whole, "item_shown_7d")
    others = ROWS[ROWS != PUSHED]
    assert (weighed.values(others, NOW) == whole.values(others, NOW)).all()
    if request_id:
        assert value(weighed, "item_ctr_7d")[PUSHED] < 0.5 < 0.9 < value(whole, "item_ctr_7d")[PUSHED]


def test_what_a_request_narrowed_is_no_evidence_and_was_shown_all_the_same() -> None:
    weighed, whole = pair()
    for columns in (weighed, whole):
        columns.update(ITEMS[PUSHED].item_id, state(PUSHED, 230, 200, narrowed=200))
    weighed.weigh()
    assert 13 <= value(weighed, "item_engaged_decay7d")[PUSHED] <= 16, "as of 30 impressions"
    assert value(weighed, "item_shown_7d")[PUSHED] == value(whole, "item_shown_7d")[PUSHED]
    weighed.update(ITEMS[PUSHED].item_id, state(PUSHED, 230, 16, narrowed=0))
    whole.update(ITEMS[PUSHED].item_id, state(PUSHED, 230, 16, narrowed=200))
    assert (weighed.values(ROWS, NOW) == whole.values(ROWS, NOW)).all(), "no feature reads the mark"


def test_it_is_not_popular_until_it_has_earned_it() -> None:
    catalogue = Catalogue(ITEMS)
    nothing = popularity(np.empty(0, np.int32), np.empty(0, np.float32), catalogue)
    weighed, whole = pair()
    tables = [Trending(FEATURES, columns, catalogue, nothing) for columns in (weighed, whole)]
    for columns in (weighed, whole):
        columns.update(ITEMS[PUSHED].item_id, state(PUSHED, 30, 100))
    assert [table.refresh(NOW).rows.tolist() for table in tables] == [[0, 1, 2, 4, 3], [4, 0, 1, 2, 3]]
    weighed.update(ITEMS[PUSHED].item_id, state(PUSHED, 1_000, 100))
    assert tables[0].refresh(NOW).rows.tolist() == [4, 0, 1, 2, 3], "nobody need lift anything"


def test_clicks_that_are_too_many_do_not_push_an_item_out() -> None:
    weighed, _ = pair()
    pushed, counted = state(0, 300, 40), set[bytes]()
    for n in range(10_000):
        fake = Event(f"f{n}", EventType.CLICK, "fake", ITEMS[0].item_id, NOW - 1, request_id="made-up")
        for delta in FEATURES.fold(fake).of_item(counted):
            pushed.change(delta)
    before = value(weighed, "item_engaged_decay7d")[0]
    weighed.update(ITEMS[0].item_id, pushed)
    assert value(weighed, "item_engaged_decay7d")[0] >= before
    assert 40 <= value(weighed, "item_clicks_7d")[0] <= 110


def test_a_flood_takes_nothing_from_the_years_before() -> None:
    """Of any window no more is cut than the week has too much."""
    weighed, whole = pair()
    for columns in (weighed, whole):
        long_known, counted = state(0, 300, 40), set[bytes]()
        for n in range(20_000):
            past = Event(
                f"p{n}", EventType.CLICK, f"p{n}", ITEMS[0].item_id, NOW - 90 * MS_PER_DAY, request_id="r"
            )
            fake = Event(
                f"f{n}", EventType.CLICK, f"f{n % 500}", ITEMS[0].item_id, NOW - 1, request_id="made-up"
            )
            for event in (past, fake):
                for delta in FEATURES.fold(event).of_item(counted):
                    long_known.change(delta)
        columns.update(ITEMS[0].item_id, long_known)
    assert value(whole, "item_clicks_ever")[0] == 40_040
    assert 20_000 <= value(weighed, "item_clicks_ever")[0] <= 20_200
    assert 20_000 <= value(weighed, "item_engaged_ever")[0] <= 20_200


def test_an_item_that_lists_stopped_showing_keeps_what_it_earned() -> None:
    weighed, whole = pair()
    for columns in (weighed, whole):
        earned, counted = EntityState(), set[bytes]()
        for n in range(900):
            past = Event(
                f"p{n}", EventType.CLICK, f"p{n}", ITEMS[5].item_id, NOW - 9 * MS_PER_DAY, request_id="r"
            )
            for delta in FEATURES.fold(past).of_item(counted):
                earned.change(delta)
        columns.update(ITEMS[5].item_id, earned)
        columns.weigh()
    assert (weighed.values(ROWS, NOW) == whole.values(ROWS, NOW)).all()


def test_a_flood_on_one_item_does_not_end_the_comparison() -> None:
    """More clicks on it than the catalogue has impressions."""
    weighed, _ = pair()
    weighed.update(ITEMS[PUSHED].item_id, state(PUSHED, 30, 3_000))
    weighed.refresh(NOW)
    weighed.weigh()
    assert value(weighed, "item_engaged_decay7d")[PUSHED] <= 16


def test_what_a_training_found_suspect_has_less_from_the_start() -> None:
    base = {ITEMS[0].item_id: (WHOLE // 8, WHOLE // 4), "gone": (0, 0)}
    weighed = ItemColumns(ITEMS, FEATURES, replace(WEIGHING, base=base))
    for row in (0, 1):
        weighed.update(ITEMS[row].item_id, state(row, 300, 40))
    assert value(weighed, "item_engaged_decay7d")[:2] == [10, 40]
    assert value(weighed, "item_clicks_7d")[:2] == [5, 40]
    assert value(weighed, "item_shown_7d")[:2] == [300, 300]


def test_without_impressions_everything_counts() -> None:
    weighed, whole = ItemColumns(ITEMS, FEATURES, WEIGHING), ItemColumns(ITEMS, FEATURES)
    for columns in (weighed, whole):
        columns.update(ITEMS[0].item_id, state(0, 0, 500, None))
        columns.refresh(NOW)
        columns.weigh()
    assert (weighed.values(ROWS, NOW) == whole.values(ROWS, NOW)).all()


def test_the_catalogue_may_grow() -> None:
    weighed, _ = pair()
    weighed.put([8], [tiny_items(9)[8]])
    weighed.weigh()
    assert weighed.values(np.array([8], np.int32), NOW).shape == (1, len(weighed.columns))
