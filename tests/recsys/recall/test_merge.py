import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.request import ABSENT, Rows
from recsys.recall.grouping import first_seen
from recsys.recall.merge import QuotaMerger


def rows(*values: int) -> Rows:
    return np.array(values, np.int32)


def test_every_candidate_has_its_channels_and_ranks() -> None:
    merged = QuotaMerger({}).merge({"a": rows(7, 3), "b": rows(3, 9)})
    assert merged.rows.tolist() == [3, 7, 9]  # 3 is in both; 7 and 9 are first and second of one
    assert merged.channels_of(0) == {"a": 1, "b": 0}
    assert merged.channels_of(1) == {"a": 0}
    np.testing.assert_allclose(merged.score, [1 / 62 + 1 / 61, 1 / 61, 1 / 62], rtol=1e-6)


def test_a_quota_includes_items_that_fusion_alone_would_drop() -> None:
    a, fresh = rows(0, 1, 2, 3), rows(10, 11)
    assert 11 not in QuotaMerger({}, limit=3).merge({"a": a, "fresh": fresh}).rows
    merged = QuotaMerger({"fresh": 2}, limit=3).merge({"a": a, "fresh": fresh})
    assert set(merged.rows.tolist()) == {0, 10, 11}


def test_a_weight_moves_a_channel_up() -> None:
    merged = QuotaMerger({}, weights={"b": 2.0}).merge({"a": rows(1), "b": rows(2)})
    assert merged.rows.tolist() == [2, 1]


def test_nothing_recalled_gives_no_candidates_but_keeps_the_channels() -> None:
    merged = QuotaMerger({"a": 5}).merge({"a": rows()})
    assert len(merged) == 0
    assert merged.channels == ("a",)


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.lists(st.integers(0, 30), unique=True, max_size=20), max_size=3
    ),
    st.integers(1, 40),
    st.integers(0, 10),
)
def test_the_merge_is_a_bounded_union(recalled: dict[str, list[int]], limit: int, quota: int) -> None:
    merged = QuotaMerger(dict.fromkeys("abc", quota), limit).merge(
        {channel: rows(*found) for channel, found in recalled.items()}
    )
    union = {row for found in recalled.values() for row in found}
    guaranteed = {row for found in recalled.values() for row in found[:quota]}
    assert len(set(merged.rows.tolist())) == len(merged)
    assert guaranteed <= set(merged.rows.tolist()) <= union
    assert len(merged) == min(len(union), max(limit, len(guaranteed)))
    assert (np.diff(merged.score) <= 0).all()
    for position, row in enumerate(merged.rows.tolist()):
        expected = {channel: found.index(row) for channel, found in recalled.items() if row in found}
        assert merged.channels_of(position) == expected
    assert (merged.ranks >= ABSENT).all()


@given(st.lists(st.integers(0, 50), max_size=60))
def test_first_seen_agrees_with_a_literal_version(values: list[int]) -> None:
    different, places = first_seen(rows(*values))
    assert different.tolist() == list(dict.fromkeys(values))
    assert different[places].tolist() == values
