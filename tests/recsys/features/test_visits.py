"""Which visits share a category with the candidate, by masks of bits: few categories, and more than a mask has bits."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.event_columns import NO_BUCKET
from recsys.features.visits import share_any


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([3, 64, 65, 300]))
def test_rows_share_a_bucket_or_not(rng: random.Random, n_buckets: int) -> None:
    buckets = rng.sample(range(NO_BUCKET), n_buckets)

    def rows(n: int, width: int) -> list[list[int]]:
        return [[rng.choice([NO_BUCKET, *buckets]) for _ in range(width)] for _ in range(n)]

    left, right = rows(7, rng.randint(1, 4)), rows(9, rng.randint(1, 4))
    pairs = [(i, j) for i in range(7) for j in range(9)]
    of_left, of_right = (np.array(side, np.int32) for side in zip(*pairs, strict=True))
    found = share_any(np.array(left), of_left, np.array(right), of_right)
    assert found.tolist() == [bool({*left[i]} & {*right[j]} - {NO_BUCKET}) for i, j in pairs]


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_shares_nothing(n: int) -> None:
    empty = np.full((1, 2), NO_BUCKET)
    places = np.zeros(n, np.int32)
    assert share_any(empty, places, empty, places).tolist() == [False] * n
