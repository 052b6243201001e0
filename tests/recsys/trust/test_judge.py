import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.types import MS_PER_MINUTE, MS_PER_SECOND
from recsys.trust.judge import backed, over_credit, overflowing
from recsys.trust.rules import TrustRules

SMALL = TrustRules(burst=3, per_minute=6)
events = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.booleans()), max_size=40)


def columns(rows: list[tuple[int, int, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    key, time, shown = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(key, np.int64), np.array(time, np.int64) * MS_PER_SECOND, np.array(shown, bool)


@given(events)
def test_backed_means_shown_before_or_at_that_instant(rows: list[tuple[int, int, bool]]) -> None:
    expected = [any(k == key and t <= time and s for k, t, s in rows) for key, time, _ in rows]
    assert backed(*columns(rows)).tolist() == expected


def emptied(times: list[int], rules: TrustRules) -> list[bool]:
    """One user's bucket, event by event, in tokens · `MS_PER_MINUTE`."""
    found, full = [], rules.burst * MS_PER_MINUTE
    level, last = full, 0
    for time in times:
        level = min(full, level + (time - last) * rules.per_minute)
        found.append(level <= 0)
        level, last = level - MS_PER_MINUTE, time
    return found


@given(events)
def test_the_bucket_is_that_of_each_user_event_by_event(rows: list[tuple[int, int, bool]]) -> None:
    user, time, _ = columns(rows)
    found = overflowing(user, time, SMALL)
    for each in np.unique(user):
        order = np.flatnonzero(user == each)[np.argsort(time[user == each], kind="stable")]
        assert found[order].tolist() == emptied(time[order].tolist(), SMALL)


@given(events, st.integers(0, 99))
def test_the_order_of_arrival_does_not_matter(rows: list[tuple[int, int, bool]], seed: int) -> None:
    key, time, shown = columns(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert (backed(key[order], time[order], shown[order]) == backed(key, time, shown)[order]).all()
    # of events at one instant it is the number that counts
    there, again = overflowing(key, time, SMALL), overflowing(key[order], time[order], SMALL)
    assert sorted(zip(key[there], time[there], strict=True)) == sorted(
        zip(key[order][again], time[order][again], strict=True)
    )


def test_two_hundred_ratings_in_ten_minutes_are_a_persons() -> None:
    time = np.repeat(np.arange(10), 20) * MS_PER_MINUTE
    assert not overflowing(np.zeros(200, np.int64), time).any()


def test_a_robots_minute_is_found() -> None:
    time = np.arange(1_000) * 60
    found = overflowing(np.zeros(1_000, np.int64), time)
    assert not found[:300].any()
    assert found[400:].all()


def test_a_pushed_item_is_found_and_the_others_are_not() -> None:
    backed_users, unbacked_users = np.array([50, 40, 2, 0]), np.array([5, 6, 30, 2])
    day = np.zeros(4, np.int64)
    assert over_credit(backed_users, unbacked_users, day).tolist() == [False, False, True, False]


def test_a_day_that_is_mostly_unbacked_is_not_judged() -> None:
    backed_users, unbacked_users = np.array([0, 3, 50, 2]), np.array([40, 2, 4, 30])
    assert over_credit(backed_users, unbacked_users, np.array([0, 0, 1, 1])).tolist() == [
        False,
        False,
        False,
        True,
    ]
