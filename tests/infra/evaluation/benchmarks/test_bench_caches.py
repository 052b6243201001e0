"""`recsys bench caches`: known answers of the simulated policies, and the bounds between them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.evaluation.benchmarks.caches import CacheBench, run
from infra.evaluation.benchmarks.eviction import Access, lru, optimum, s3_fifo, sieve
from recsys.contracts.errors import InvalidData
from recsys.contracts.events import Event
from recsys.contracts.types import EventType
from recsys.lake.lake import EVENTS, day_writer, events_table


def test_known_answers() -> None:
    loop: list[Access] = [(key, None) for key in "abcabcabc"]
    assert lru(loop, 2) == 9  # the classic
    assert optimum(loop, 2) == 6
    popular: list[Access] = [(key, None) for key in "aab1a2b3a4b5a"]  # a and b among what is asked for once
    assert (lru(popular, 3), sieve(popular, 3), s3_fifo(popular, 3), optimum(popular, 3)) == (11, 9, 8, 7)
    versions: list[Access] = [("b", 1), ("a", 1), ("a", 2), ("b", 1)]
    assert [policy(versions, 2) for policy in (lru, sieve, s3_fifo, optimum)] == [4, 3, 3, 3]


@given(st.lists(st.tuples(st.integers(0, 9), st.none()), min_size=1, max_size=80), st.integers(2, 9))
def test_nothing_is_below_the_optimum(accesses: list[Access], entries: int) -> None:
    least = optimum(accesses, entries)
    assert least >= len(set(accesses))
    assert all(policy(accesses, entries) >= least for policy in (lru, sieve, s3_fifo))


def test_the_order_of_a_lake(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="data import"):
        run(CacheBench(tmp_path, accesses=10, keys=5))
    shown = [(1, "r1", "u", EventType.IMPRESSION), (2, "r1", "u", EventType.IMPRESSION)]
    later = [
        (3, None, "u", EventType.CLICK),
        (4, "r2", "u", EventType.IMPRESSION),
        (5_004, "r3", "u", EventType.IMPRESSION),
    ]
    events = [
        Event(str(t), kind, user, f"item-{t}", t, request_id=request)
        for t, request, user, kind in shown + later
    ]
    with day_writer(tmp_path, EVENTS, "test") as files:
        files.write(events_table(events))
    figures = run(CacheBench(tmp_path, accesses=100, keys=10, percents=(50,))).figures
    assert (figures["lists_accesses"], figures["users_accesses"], figures["items_accesses"]) == (3, 3, 4)
    assert figures["lists_50pct_lru_misses"] == pytest.approx(2 / 3)
    assert figures["users_50pct_lru_misses"] == pytest.approx(1 / 3)
    hits = [figures[f"lists_hits_with_{seconds}_s"] for seconds in ("2", "10")]
    assert hits == pytest.approx([0, 1 / 3])  # the first two have the user's click between them
