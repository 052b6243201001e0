import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.kuairand.point_in_time import PointInTimeSums

rows = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 2), st.integers(0, 12), st.integers(0, 5), st.integers(0, 14)
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(rows, st.one_of(st.none(), st.integers(1, 6)))
def test_sums_equal_the_definition(log: list[tuple[int, int, int, int, int]], window: int | None) -> None:
    """Brute force: rows of the same key, strictly before `as_of`, and not older than the window."""
    first, second, times, values, as_of = np.array(log).T
    found = PointInTimeSums([first, second], times, as_of).sum(values, window)
    for i in range(len(log)):
        before = (first == first[i]) & (second == second[i]) & (times < as_of[i])
        if window is not None:
            before &= times >= as_of[i] - window
        assert found[i] == values[before].sum()


def test_rows_of_one_instant_do_not_see_each_other() -> None:
    key, times = np.zeros(3, np.int64), np.array([5, 5, 6])
    assert PointInTimeSums([key], times).count().tolist() == [0, 0, 2]


def test_rate_is_drawn_to_its_prior() -> None:
    key, times = np.zeros(3, np.int64), np.array([1, 2, 3])
    assert PointInTimeSums([key], times).rate(np.array([1, 1, 0]), prior=0.5, strength=2).tolist() == [
        0.5,
        2 / 3,
        0.75,
    ]
