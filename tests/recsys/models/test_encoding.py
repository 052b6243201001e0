"""History encoding: known answers, and the prefix property that training relies on."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.state import Visit
from recsys.contracts.types import EventType
from recsys.models.encoding import (
    N_GAPS,
    TYPE_NUMBERS,
    encode_arrays,
    encode_visits,
    gap_buckets,
)


def visit(item: str, time_ms: int, kind: EventType = EventType.CLICK) -> Visit:
    return Visit(time_ms, f"e{time_ms}", kind, item, ())


def test_known_history() -> None:
    visits = [visit("a", 1_000), visit("new", 2_000), visit("b", 4_000, EventType.LIKE)]
    encoded = encode_visits(visits, {"a": 0, "b": 4}, now_ms=4_500, length=4)
    assert encoded.history.tolist() == [0, 0, 1, 5]  # "new" is not in the item table
    assert encoded.types.tolist() == [0, 0, TYPE_NUMBERS[EventType.CLICK], TYPE_NUMBERS[EventType.LIKE]]
    assert encoded.gaps.tolist() == [0, 0, 3, 1]  # 3 s → bucket of [3, 7) s; half a second → bucket 1
    assert all(a.dtype == np.int64 for a in encoded)


def test_empty_and_too_long_histories() -> None:
    assert encode_visits([], {}, 1, 3).history.tolist() == [0, 0, 0]
    visits = [visit(str(i), 1_000 + i) for i in range(9)]
    assert encode_visits(visits, {str(i): i for i in range(9)}, 2_000, 3).history.tolist() == [7, 8, 9]


def test_a_visit_in_the_future_counts_as_now() -> None:
    assert encode_visits([visit("a", 9_000)], {"a": 0}, now_ms=2_000, length=1).gaps.tolist() == [1]


def test_unknown_times_have_gap_zero() -> None:
    zeros = np.zeros(2, np.int64)
    assert encode_arrays(np.array([3, 4]), np.array([1, 1]), zeros, 0, 2).gaps.tolist() == [0, 0]


def test_gap_buckets_double_and_saturate() -> None:
    seconds = np.array([0, 1, 2, 3, 6, 7, 2**29 - 1, 2**40])
    expected = [1, 2, 2, 3, 3, 4, 30, N_GAPS - 1]
    assert gap_buckets(np.zeros_like(seconds), seconds * 1_000).tolist() == expected


@given(st.lists(st.integers(0, 10**7), min_size=2, max_size=20), st.data())
def test_encoding_of_a_prefix_is_the_prefix_of_the_encoding(steps: list[int], data: st.DataObject) -> None:
    times = 1 + np.cumsum(np.array(steps, np.int64))
    numbers = np.arange(1, len(steps) + 1)
    types = np.ones(len(steps), np.int64)
    cut = data.draw(st.integers(1, len(steps) - 1))
    whole = encode_arrays(numbers, types, times, int(times[-1]) + 5, len(steps))
    prefix = encode_arrays(numbers[:cut], types[:cut], times[:cut], int(times[cut]), cut)
    for part, all_of_it in zip(prefix, whole, strict=True):
        assert part.tolist() == all_of_it[:cut].tolist()
