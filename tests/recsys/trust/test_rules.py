import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.trust.rules import NO_LIMIT, TrustRules, credit, rate_of

pairs = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=1, max_size=20)


def columns(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    observed, evidence = np.array(rows, np.int64).T
    return observed, evidence


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=20), st.integers(2, 9), st.integers(1, 99))
def test_items_as_engaging_as_the_log_are_below_their_credit(
    shown: list[int], times: int, one_in: int
) -> None:
    evidence = np.array(shown, np.int64) * one_in
    observed = np.array(shown, np.int64)
    rules = TrustRules(times=times, allowance=1)
    assert (observed <= credit(evidence, rate_of(observed, evidence), rules)).all()


@given(pairs, st.integers(0, 2**16))
def test_more_evidence_gives_more_credit(rows: list[tuple[int, int]], rate: int) -> None:
    _, evidence = columns(rows)
    assert (credit(evidence + 1, rate) >= credit(evidence, rate)).all()
    assert (credit(evidence, rate) >= TrustRules().allowance).all()


@given(pairs, st.integers(0, 99))
def test_the_order_of_the_items_does_not_matter(rows: list[tuple[int, int]], seed: int) -> None:
    observed, evidence = columns(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert rate_of(observed[order], evidence[order]) == rate_of(observed, evidence)


@given(pairs, st.integers(0, 1_000))
def test_pushing_an_item_that_few_are_shown_hardly_raises_its_credit(
    rows: list[tuple[int, int]], fakes: int
) -> None:
    observed, evidence = (np.append(column, 5) for column in columns(rows))
    pushed = observed.copy()
    pushed[-1] += fakes
    before, after = rate_of(observed, evidence), rate_of(pushed, evidence)
    if before is not None and after is not None:
        assert after == before, "it has as much as its evidence already"


def test_a_log_with_more_engagements_than_impressions_is_left_alone() -> None:
    none, some = np.zeros(2, np.int64), np.ones(2, np.int64)
    assert rate_of(some, none) is None
    assert (credit(none, None) == NO_LIMIT).all()
    assert rate_of(none, none) == 0
