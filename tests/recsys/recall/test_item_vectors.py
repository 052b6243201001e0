"""One inner product is the sum of both scores, an item counts once, and what does not fit together is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidBundle
from recsys.recall.item_vectors import ItemVectors, LinearPart
from recsys.recall.two_tower import UserTower
from tests.bundles import tiny_linear, tiny_vectors, user_tower

N_ITEMS = 20
VECTORS, LINEAR = tiny_vectors(N_ITEMS), tiny_linear(N_ITEMS)
HISTORIES = st.lists(st.lists(st.integers(0, N_ITEMS), min_size=6, max_size=6), min_size=1, max_size=4)


@given(HISTORIES)
@settings(max_examples=50, deadline=None)
def test_the_indexed_vectors_score_the_sum_of_tower_and_linear_part(histories: list[list[int]]) -> None:
    history = np.array(histories)
    other = np.zeros_like(history)
    alone = UserTower(user_tower(VECTORS), VECTORS).vectors(history, other, other)
    both = UserTower(user_tower(VECTORS), VECTORS, linear=LINEAR).vectors(history, other, other)
    weights = LINEAR.history @ LINEAR.candidates.T
    linear = [sum(weights[i - 1] for i in sorted(set(row) - {0})) + np.zeros(N_ITEMS) for row in histories]
    items = ItemVectors(VECTORS, None, LINEAR)
    np.testing.assert_allclose(
        both @ items.indexed.T, alone @ VECTORS.T + np.array(linear), rtol=1e-5, atol=1e-5
    )


def test_the_given_history_is_left_as_it_is() -> None:
    history = np.array([[3, 1, 3, 0]])
    LINEAR.of(history)
    np.testing.assert_array_equal(history, [[3, 1, 3, 0]])


@pytest.mark.parametrize("number", [-1, N_ITEMS + 1])
def test_a_number_of_no_item_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="item numbers must be in"):
        LINEAR.of(np.array([[1, number]]))


def test_arrays_are_read_as_they_were_written() -> None:
    for items in (ItemVectors(VECTORS), ItemVectors(VECTORS, VECTORS[:3], LINEAR)):
        found = ItemVectors.of(items.arrays())
        for name, array in items.arrays().items():
            np.testing.assert_array_equal(found.arrays()[name], array)
        assert (len(found), found.dimension) == VECTORS.shape
        assert found.indexed.shape == (N_ITEMS, VECTORS.shape[1] + (3 if items.linear else 0))


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"vectors": VECTORS, "linear_history": LINEAR.history},
        {"vectors": VECTORS, "linear_history": LINEAR.history, "linear_candidates": LINEAR.candidates[:, 1:]},
        {
            "vectors": VECTORS,
            "linear_history": LINEAR.history[1:],
            "linear_candidates": LINEAR.candidates[1:],
        },
        {"vectors": VECTORS[:, 0], "linear_history": LINEAR.history, "linear_candidates": LINEAR.candidates},
        {"vectors": VECTORS, "linear_history": VECTORS[:, 0], "linear_candidates": VECTORS[:, 0]},
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(InvalidBundle, match="train the two-tower again"):
        ItemVectors.of(arrays)


def test_a_weight_scales_the_scores() -> None:
    history = np.array([[4, 9]])
    np.testing.assert_allclose(LINEAR.weighed(3).of(history), 3 * LINEAR.of(history), rtol=1e-6)
    assert LinearPart is type(LINEAR.weighed(0.5))
