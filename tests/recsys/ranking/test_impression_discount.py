"""Items shown before lose value; others keep it."""

import numpy as np
import pytest

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.request import Candidates, Query
from recsys.ranking.impression_discount import ImpressionDiscount


def candidates(score: list[float], shown: list[float]) -> Candidates:
    n = len(score)
    return Candidates(
        rows=np.arange(n, dtype=np.int32),
        channels=("one",),
        ranks=np.zeros((n, 1), np.int16),
        score=np.array(score, np.float32),
        features=np.stack([np.full(n, 7), np.array(shown)], axis=1).astype(np.float32),
    )


QUERY = Query(request_id="r", user_id="u", k=3, now_ms=0)


def test_each_impression_multiplies_by_the_factor() -> None:
    found = ImpressionDiscount(column=1, factor=0.5).score(QUERY, candidates([0.8, 0.8, 0.8], [0, 1, 3]))
    assert found.score.tolist() == pytest.approx([0.8, 0.4, 0.1])
    assert found.score.dtype == np.float32


def test_a_negative_value_sinks_too() -> None:
    found = ImpressionDiscount(column=1, factor=0.5).score(QUERY, candidates([-1.0, -1.0], [0, 1]))
    assert found.score.tolist() == pytest.approx([-1.0, -2.0])


def test_no_candidates_are_not_an_error() -> None:
    none = candidates([], [])
    assert ImpressionDiscount(column=1, factor=0.5).score(QUERY, none) is none


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.5, float("nan")])
def test_a_factor_outside_zero_to_one_is_refused(factor: float) -> None:
    with pytest.raises(InvalidConfig, match="above 0"):
        ImpressionDiscount(column=1, factor=factor)
