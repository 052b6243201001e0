"""Thompson's draws: as often as an item may be the best, with the probability of exactly that policy."""

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.request import Candidates, Query, Rows
from recsys.contracts.types import Diversity, Exploring, Head
from recsys.items.catalogue import Catalogue
from recsys.rerank.exploration import (
    DRAWS,
    Exploration,
    drawn_by_thompson,
    drawn_uniformly,
    sampled_worth,
)
from recsys.rerank.reranker import DeviationOf, RerankConfig, Reranker

N = 12
ALIKE = np.array([0.1, 0.1], np.float32)


def test_two_equally_unsure_items_are_drawn_equally_often() -> None:
    counts, rng = np.zeros(2), np.random.default_rng(0)
    for _ in range(400):
        worth = sampled_worth(rng, ALIKE, ALIKE, np.array([0.5, 0.5]))
        (first,), (probability,) = drawn_by_thompson(rng, worth, 1, 0.1)
        counts[first] += 1
        assert probability == pytest.approx(0.5, abs=0.2)
    assert abs(counts[0] / 400 - 0.5) < 0.125  # five standard errors


def test_what_is_certain_is_drawn_in_the_order_of_its_worth() -> None:
    rng, value = np.random.default_rng(0), np.array([0.1, 0.3, 0.2], np.float32)
    worth = sampled_worth(rng, value, value, np.zeros(3))
    np.testing.assert_allclose(worth[0], value, rtol=1e-6)
    drawn, probabilities = drawn_by_thompson(rng, worth, 2, uniform=1e-9)
    assert drawn == [1, 2]
    assert probabilities == pytest.approx([1, 1])


def test_an_item_that_may_be_better_is_tried_although_its_mean_is_lower() -> None:
    """Known answer: P(-1 + 2 e > 0) of a standard normal e is .309."""
    odds = np.array([0.0, -1.0])
    p = (1 / (1 + np.exp(-odds))).astype(np.float32)
    rng = np.random.default_rng(0)
    firsts = [
        sampled_worth(rng, p, p, np.array([0.0, 2.0])).argmax(axis=1).mean() for _ in range(4_000 // DRAWS)
    ]
    assert np.mean(firsts) == pytest.approx(0.309, abs=0.04)  # five standard errors


def test_every_item_keeps_a_share_so_that_a_log_judges_every_policy() -> None:
    rng, value = np.random.default_rng(0), np.linspace(0.9, 0.1, N).astype(np.float32)
    worth = sampled_worth(rng, value, value, np.zeros(N))
    seen = [drawn_by_thompson(rng, worth, 1, uniform=0.24) for _ in range(2_000)]
    assert [p[0] for d, p in seen if d != [0]] == pytest.approx([0.02] * sum(d != [0] for d, _ in seen))
    assert {d[0] for d, _ in seen} == set(range(N))


def test_logged_probabilities_give_back_the_reward_of_another_policy() -> None:
    """IPS of a uniform policy from Thompson's draws: unbiased only if the logged probabilities are true."""
    rng, reward = np.random.default_rng(0), np.linspace(0, 1, N)
    click = np.linspace(0.3, 0.2, N).astype(np.float32)
    weighted = []
    for _ in range(6_000):
        worth = sampled_worth(rng, click, click, np.full(N, 0.7))
        (item,), (probability,) = drawn_by_thompson(rng, worth, 1, 0.2)
        weighted.append(reward[item] / N / probability)
    error = np.std(weighted) / np.sqrt(len(weighted))
    assert abs(np.mean(weighted) - reward.mean()) < 4 * error


@pytest.mark.parametrize("slots", [1, 3, N])
def test_no_item_is_drawn_twice(slots: int) -> None:
    rng = np.random.default_rng(0)
    worth = rng.random((DRAWS, N))
    for drawn, probabilities in (drawn_uniformly(rng, N, slots), drawn_by_thompson(rng, worth, slots, 0.1)):
        assert len(set(drawn)) == len(drawn) == len(probabilities) == slots
        assert all(0 < p <= 1 for p in probabilities)


def unsure_of_the_last(rows: Rows, click: NDArray[np.float32], now_ms: int) -> NDArray[np.float64]:
    return np.where(rows == N - 1, 4.0, 0.0)


def stage(deviation_of: DeviationOf | None = unsure_of_the_last, places: tuple[int, ...] = (3,)) -> Reranker:
    explore = Exploration(places=places, pool=20, draw=Exploring.THOMPSON)
    catalogue = Catalogue([])
    config = RerankConfig(diversity=Diversity.NONE, exploration=explore)
    return Reranker(
        config, catalogue, lambda rows: np.zeros((len(rows), 4), np.float32), deviation_of=deviation_of
    )


def candidates(scores: bool = True) -> Candidates:
    click = np.linspace(0.5, 0.2, N).astype(np.float32)
    found = Candidates(np.arange(N, dtype=np.int32), ("two_tower",), np.zeros((N, 1), np.int16), click)
    return replace(found, scores={Head.CLICK: click}) if scores else found


def test_the_place_goes_to_the_next_best_or_to_what_is_not_known() -> None:
    drawn = []
    for request in range(300):
        selection = stage().select(Query(f"r{request}", "u", k=5, now_ms=0), candidates())
        assert selection.positions[[0, 1, 2, 4]].tolist() == [0, 1, 2, 3]
        drawn.append(int(selection.positions[3]))
        assert 0 < selection.propensities[3] < 1
    assert {drawn.count(4) > 100, drawn.count(N - 1) > 50} == {True}


@pytest.mark.parametrize(("deviation_of", "scores"), [(None, True), (unsure_of_the_last, False)])
def test_without_uncertainty_or_ranker_draws_are_uniform(
    deviation_of: DeviationOf | None, scores: bool
) -> None:
    selection = stage(deviation_of).select(Query("r", "u", k=5, now_ms=0), candidates(scores))
    assert selection.propensities[3] == pytest.approx(1 / (N - 4))
