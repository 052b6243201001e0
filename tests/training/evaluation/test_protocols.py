"""Splits by hand, and that none of them leaks."""

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import EventType, Item
from tests.training.evaluation.histories import CLICK, PURCHASE, history, timeless
from training.choices import Augmentation, Order
from training.evaluation.protocols import Split, given, leave_one_out, temporal, temporal_shares
from training.evaluation.recipes import recipe
from training.evaluation.sources import Log
from training.two_tower.retrieval import Cases
from training.two_tower.sequences import History

ITEMS = [Item(str(n)) for n in range(12)]


def log(*histories: History) -> Log:
    return Log(histories, ITEMS)


def asked(cases: Cases) -> list[tuple[list[int], list[int]]]:
    """Each case: the numbers of its history, the rows it asks for."""
    return [(h.numbers.tolist(), t.tolist()) for h, t in zip(cases.histories, cases.targets, strict=True)]


def test_leave_one_out_by_hand() -> None:
    split = leave_one_out(log(history("u", 4, 5, 6, 7), history("two", 1, 2), history("short", 3, 3)))
    assert [h.numbers.tolist() for h in split.train] == [[4, 5], [1], [3, 3]]
    assert asked(split.validation) == [([4, 5], [5])]
    assert [h.numbers.tolist() for h in split.refit] == [[4, 5, 6], [1], [3, 3]]
    assert asked(split.test) == [([4, 5, 6], [6]), ([1], [1])]
    assert split.left_out["left_out_users"] == 1
    with pytest.raises(InvalidData, match="2 different items"):
        leave_one_out(log(history("short", 3, 3)))


def test_the_last_item_is_the_last_new_one() -> None:
    """The click, like and purchase of one exposure are one item; a repeat is not recommended."""
    split = leave_one_out(log(history("u", 4, 5, 5, 6, 7, 7, 4)))
    assert asked(split.test) == [([4, 5, 5, 6], [6])]
    assert asked(split.validation) == [([4, 5, 5], [5])]


def test_temporal_asks_for_each_new_item_with_all_that_was_before() -> None:
    split = temporal(log(history("u", 1, 2, 3, 2, 4), history("late", 5, start_ms=45_000)), 20_000, 30_000)
    assert [h.numbers.tolist() for h in split.train] == [[1]]
    assert [h.numbers.tolist() for h in split.refit] == [[1, 2]]
    assert asked(split.test) == [([1, 2], [2]), ([1, 2, 3, 2], [3]), ([], [4])]  # seen items are filtered
    assert split.left_out["left_out_events"] == 1  # the second 2
    assert split.test.now_ms == [30_000, 50_000, 55_000]
    for cases, begins in ((split.validation, 20_000), (split.test, 30_000)):
        assert all(now >= begins for now in cases.now_ms)


def test_only_items_that_got_the_wanted_event_at_once_are_asked_for() -> None:
    clicks_and_views = History(
        "u",
        np.array([1, 1, 2, 3, 3]),
        np.array([CLICK, PURCHASE, CLICK, CLICK, PURCHASE]),
        np.array([50_000, 50_001, 60_000, 70_000, 90_000]),
    )
    split = temporal(log(history("v", 1, 2), clicks_and_views), 15_000, 40_000)
    assert [t.tolist() for t in split.test.targets] == [[0], [1], [2]]
    viewed = History("w", np.array([9, 9]), np.array([CLICK, PURCHASE]), np.array([20_000, 20_001]))
    before = history("v", 1)._replace(times=np.array([9_000]))
    split = temporal(log(before, viewed, clicks_and_views), 10_000, 40_000, EventType.PURCHASE)
    assert asked(split.test) == [
        ([], [0])
    ]  # 3 was viewed later, 2 never; its own click is not in the question


def test_shares_split_by_time() -> None:
    split = temporal_shares(log(history("u", *range(1, 11)), history("v", *range(1, 11), start_ms=3)))
    assert sum(len(h.numbers) for h in split.refit) == 18
    assert len(split.test) == len(split.validation) == 2


def test_events_without_times_are_not_split_by_time() -> None:
    with pytest.raises(InvalidData, match="leave-one-out"):
        temporal_shares(log(timeless("u", 1, 2, 3)))


def test_given_asks_for_all_new_items_of_a_user_at_once() -> None:
    """The test has a catalogue of its own: 9, which the training lacks, comes behind the training's items."""
    train = Log([history("u", 1, 2, 3), history("v", 3, 4)], ITEMS[:5])
    test = Log(
        [
            history("u", 2, 1, 4, 1, start_ms=100_000),  # of this catalogue: items 3, 9, 0, 9
            history("new", 2, start_ms=100_000),
            history("v", 1, start_ms=100_000),
        ],
        [ITEMS[9], ITEMS[3], ITEMS[2], ITEMS[0]],
    )
    split = given(train, test)
    assert [item.item_id for item in split.items] == ["0", "1", "2", "3", "4", "9"]
    assert asked(split.test) == [([1, 2, 3], [3, 5]), ([], [3]), ([3, 4], [5])]
    assert split.left_out["left_out_users"] == 0
    assert split.left_out["left_out_events"] == 2  # item 0, which u has, and the second 9
    assert not split.notes
    assert list(split.refit) == list(train.histories)


def test_given_leaves_out_users_with_nothing_new_and_tells_of_old_tests() -> None:
    train = log(history("u", 1, 2, 3), history("v", 1, 5))
    split = given(train, log(history("u", 1), history("v", 6)), order=Order.KEPT)
    assert asked(split.test) == [([1, 5], [5])]
    assert split.left_out["left_out_users"] == 1
    assert split.notes == ["2 users have a test event that is older than their newest training event"]
    with pytest.raises(InvalidData, match="no user of --test"):
        given(train, log(history("u", 1)))


def test_given_without_times_validates_on_last_items() -> None:
    split = given(log(timeless("u", 1, 2, 3), timeless("one", 4)), log(timeless("u", 4)), order=Order.KEPT)
    assert asked(split.validation) == [([1, 2], [2])]
    assert [h.numbers.tolist() for h in split.train] == [[1, 2], [4]]
    assert not split.validation_from_ms
    at_once = history("u", 1, 2, 3)._replace(times=np.full(3, 5))
    split = given(log(at_once), log(history("u", 4)))
    assert asked(split.validation) == [([1, 2], [2])]
    assert not split.validation_from_ms


MANY = [history(f"u{n}", *range(1, 9)) for n in range(20)]


@pytest.mark.parametrize(
    ("train", "test", "reason"),
    [
        ([timeless("u", *range(1, 9))], [timeless("u", 9)], "events of the training without a time"),
        (MANY, [*(history(f"u{n}", 9) for n in range(19)), timeless("u19", 9)], "events of the test without"),
        (MANY, [history(f"u{n}", 9) for n in range(20)], "20 of 20 users"),
        (MANY, [history(f"u{n}", 9, start_ms=1 if n < 11 else 10**9) for n in range(20)], "11 of 20 users"),
    ],
    ids=["no times", "one without a time", "earlier", "most are earlier"],
)
def test_given_has_no_order_where_the_test_is_not_later(
    train: list[History], test: list[History], reason: str
) -> None:
    split = given(log(*train), log(*test))
    assert not split.ordered
    (note,) = split.notes
    assert reason in note
    assert "--order kept" in note
    assert [sorted(h.numbers) for h in split.refit] == [sorted(h.numbers) for h in train]
    assert any(
        h.numbers.tolist() != before.numbers.tolist() for h, before in zip(split.refit, train, strict=True)
    )
    assert not any(h.times.any() for h in split.refit)
    assert not any(split.test.now_ms)
    assert len(split.validation) == len(train), "any of the items, since they are in random order"
    for before, (held_out,) in zip(split.validation.histories, split.validation.targets, strict=True):
        assert held_out + 1 not in before.numbers
    trained = {h.user_id: set(h.numbers.tolist()) for h in split.train}
    assert all(trained[h.user_id] == set(h.numbers.tolist()) for h in split.validation.histories), (
        "the validation is not trained on"
    )
    again = given(log(*train), log(*test))
    assert [h.numbers.tolist() for h in again.refit] == [h.numbers.tolist() for h in split.refit]
    assert recipe(split).training["augmentation"] is Augmentation.SHUFFLE


def test_given_keeps_the_order_where_most_tests_are_later_and_where_it_is_told_to() -> None:
    later = [history(f"u{n}", 9, start_ms=1 if n < 10 else 10**9) for n in range(20)]
    for order, test in ((Order.AUTO, later), (Order.KEPT, [history("u0", 9)])):
        split = given(log(*MANY), log(*test), order=order)
        assert split.ordered
        assert list(split.refit) == MANY
        assert "augmentation" not in recipe(split).training
    asked_for = given(log(*MANY), log(*later), order=Order.NONE)
    assert not asked_for.ordered
    assert asked_for.notes == ["the order of events is not used (as asked); --order kept uses it"]


moments = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 99)), min_size=1, max_size=12)


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Users with repeats and equal times."""
    histories = []
    for user, events in enumerate(draw(st.lists(moments, min_size=1, max_size=6))):
        numbers, times = zip(*sorted(events, key=lambda event: event[1]), strict=True)
        histories.append(
            History(f"u{user}", np.array(numbers), np.full(len(numbers), CLICK), np.array(times, np.int64))
        )
    return log(*histories)


def check(split: Split) -> None:
    """No test item is in the user's training, no question has its answer, `train` is a prefix of `refit`."""
    refit = {h.user_id: h for h in split.refit}
    for cases, trained in ((split.test, refit), (split.validation, {h.user_id: h for h in split.train})):
        for question, targets in zip(cases.histories, cases.targets, strict=True):
            own = trained.get(question.user_id, question.before(0))
            assert len(targets) and not np.isin(targets + 1, own.numbers).any()
            assert not np.isin(targets + 1, question.numbers).any()
            assert np.array_equal(question.numbers[: len(own.numbers)], own.numbers)
    for h in split.train:
        assert np.array_equal(refit[h.user_id].numbers[: len(h.numbers)], h.numbers)


@examples(logs())
@settings(deadline=None)
def test_leave_one_out_leaks_nothing(data: Log) -> None:
    try:
        split = leave_one_out(data)
    except InvalidData:
        assert all(len(set(h.numbers.tolist())) < 2 for h in data.histories)
        return
    check(split)
    assert len(split.validation) <= len(split.test) == len(data.histories) - split.left_out["left_out_users"]
    own = {h.user_id: h for h in data.histories}
    for question, (target,) in zip(split.test.histories, split.test.targets, strict=True):
        after = own[question.user_id].numbers[len(question.numbers) :]
        assert after[0] == target + 1
        assert set(after.tolist()) <= {target + 1, *question.numbers.tolist()}, "a later new item"


@examples(logs(), st.integers(1, 99), st.integers(1, 99))
@settings(deadline=None)
def test_temporal_trains_on_nothing_later(data: Log, first: int, second: int) -> None:
    try:
        split = temporal(data, min(first, second), max(first, second))
    except InvalidData:
        return
    check(split)
    for part, end in ((split.train, min(first, second)), (split.refit, max(first, second))):
        assert max(int(h.times.max()) for h in part) < end
    for question, now in zip(split.test.histories, split.test.now_ms, strict=True):
        assert now >= max(first, second)
        assert question.times.max(initial=0) <= now


@examples(logs(), logs())
@settings(deadline=None)
def test_given_asks_for_nothing_that_the_user_has(train: Log, test: Log) -> None:
    try:
        split = given(train, test)
    except InvalidData:
        return
    check(split)
    targets = sum(map(len, split.test.targets))
    assert targets + split.left_out["left_out_events"] == sum(len(h.numbers) for h in test.histories)
    assert len(split.test) + split.left_out["left_out_users"] == len(test.histories)
