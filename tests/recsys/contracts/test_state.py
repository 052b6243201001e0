"""The monoid of states: in whichever order and grouping changes arrive, the cells are the same."""

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.state import MAX_SUM, Delta, EntityState, Op, merged

amounts = st.integers(0, MAX_SUM) | st.integers(0, 9) | st.integers(MAX_SUM - 9, MAX_SUM)
ops = st.sampled_from(Op)


@given(ops, amounts, amounts, amounts)
def test_merging_is_associative_and_commutes(op: Op, a: int, b: int, c: int) -> None:
    assert merged(op, merged(op, a, b), c) == merged(op, a, merged(op, b, c))
    assert merged(op, a, b) == merged(op, b, a)
    assert merged(Op.ADD, 0, a) == a


@given(st.lists(amounts, min_size=1, max_size=9))
def test_a_sum_is_the_exact_one_or_the_limit(values: list[int]) -> None:
    state = EntityState()
    for value in values:
        state.change(Delta("c", Op.ADD, value))
    assert state.cells["c"] == min(sum(values), MAX_SUM)
    assert reduce(lambda a, b: merged(Op.ADD, a, b), reversed(values)) == state.cells["c"]
