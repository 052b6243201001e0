"""Which items people come back to, and after how long: known answers."""

import numpy as np
import pytest

from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType
from recsys.models.encoding import TYPE_NUMBERS
from training.two_tower.repeats import LEAST_RETURNS, learnt_repeats, visits
from training.two_tower.sequences import History

VIEW, CLICK, LIKE = EventType.VIEW, EventType.CLICK, EventType.LIKE
CART, PURCHASE = EventType.ADD_TO_CART, EventType.PURCHASE
Step = tuple[int, EventType, float]  # item, type, hours since the first


def history(*steps: Step) -> History:
    numbers, types, hours = zip(*steps, strict=True) if steps else ((), (), ())
    return History(
        "u",
        np.array(numbers, np.int64),
        np.array([TYPE_NUMBERS[kind] for kind in types], np.int64),
        np.array([1 + round(hour * MS_PER_HOUR) for hour in hours], np.int64),
    )


def test_one_exposure_is_one_visit() -> None:
    steps = [(1, CLICK, 0), (1, LIKE, 0.1), (2, CLICK, 0.2), (1, PURCHASE, 0.3), (1, CLICK, 2), (3, CLICK, 2)]
    begins, returns = visits(history(*steps))
    assert begins.tolist() == [True, False, True, True, True, True]
    assert returns.tolist() == [False, False, False, True, True, False]
    assert [array.tolist() for array in visits(history())] == [[], []]


def test_groceries_are_bought_again_after_a_week_and_films_never() -> None:
    """Every user buys the same two things each eighth day, and clicks on something new each day."""
    weeks = range(LEAST_RETURNS)
    groceries = [
        step
        for week in weeks
        for step in (
            (1, CLICK, 192.0 * week),
            (1, PURCHASE, 192.0 * week + 0.5),
            (2, CLICK, 192.0 * week + 1),
            (2, PURCHASE, 192.0 * week + 1.5),
            *((10 + 7 * week + day, CLICK, 192.0 * week + 24 * day + 2) for day in range(7)),
        )
    ]
    learnt = learnt_repeats([history(*groceries)])
    assert learnt.days == {PURCHASE: 7.0}
    films = [history(*((n, CLICK, 24.0 * n) for n in range(1, 200)))]
    assert learnt_repeats(films).days == {}
    assert learnt_repeats([]).days == {}


@pytest.mark.parametrize(("share", "expected"), [(0.2, {CLICK: 0.0}), (0.01, {})])
def test_a_few_returns_do_not_open_the_list(share: float, expected: dict[EventType, float]) -> None:
    rng = np.random.default_rng(0)
    histories = []
    for _ in range(300):
        back = rng.random(40) < share
        items = np.where(back, 1, np.arange(2, 42)).tolist()
        histories.append(history((1, CLICK, 0), *((item, CLICK, 0.1 + n) for n, item in enumerate(items))))
    assert learnt_repeats(histories).days == expected


@pytest.mark.parametrize(("again", "expected"), [(10, {VIEW: 0.0, CLICK: 0.0}), (0, {})])
def test_a_rare_type_is_judged_by_its_own_items(again: int, expected: dict[EventType, float]) -> None:
    """One of 60 viewed items is clicked, too, and always come back to; of the others, ten or none."""
    views = [*range(60), *range(1, 1 + again)]
    histories = [
        history(
            *((n, VIEW, 0.1 * hour) for hour, n in enumerate(views)),
            (0, CLICK, 8),
            (1, VIEW, 9),
            (0, VIEW, 10),
        )
        for _ in range(LEAST_RETURNS)
    ]
    assert learnt_repeats(histories).days == expected


def test_what_waits_in_the_cart_is_told_from_what_was_bought() -> None:
    bought = [history((n, CART, 0), (n, PURCHASE, 1), (99, CLICK, 2), (n, CLICK, 3)) for n in range(1, 60)]
    waiting = [history((n, CART, 0), (99, CLICK, 2), (n, PURCHASE, 3)) for n in range(1, 60)]
    assert learnt_repeats(bought).days.keys() == {PURCHASE, CART}, (
        "the order, an hour after the cart, is a return, too"
    )
    assert learnt_repeats(waiting).days == {CART: 0.0}


def test_a_week_is_at_least_its_days() -> None:
    late = [history((1, PURCHASE, 0), (2, CLICK, 1), (1, PURCHASE, 24 * 6.9)) for _ in range(40)]
    assert learnt_repeats(late).days == {PURCHASE: 6.0}
    assert round(6.9 * MS_PER_DAY) // MS_PER_DAY == 6
