import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.request import ABSENT, Candidates, Query
from recsys.contracts.types import Diversity, Item
from recsys.items.catalogue import Catalogue
from recsys.pipeline.stages import Selector
from recsys.rerank.exploration import Exploration
from recsys.rerank.reranker import RerankConfig, Reranker
from recsys.rerank.rules import RuleBook
from tests.recsys.native.built import needs_native

N = 30
CATALOGUE = Catalogue([Item(f"i{i}", categories=(f"c{i % 3}",), creator=f"w{i % 10}") for i in range(N)])
# three clusters; the ten best items are all in the first
VECTORS = np.repeat(np.eye(3, 8, dtype=np.float32), 10, axis=0)
VECTORS += 0.2 * np.random.default_rng(0).standard_normal((N, 8), np.float32)


def candidates(n: int = N) -> Candidates:
    ranks = np.full((n, 2), ABSENT, np.int16)
    ranks[:, 0] = np.arange(n)
    ranks[20:, 1] = np.arange(n)[: n - 20] if n > 20 else 0
    score = np.linspace(1, 0, n).astype(np.float32)
    return Candidates(np.arange(n, dtype=np.int32), ("two_tower", "fresh"), ranks, score)


def query(k: int = 10, request_id: str = "r") -> Query:
    return Query(request_id, "u", k=k, now_ms=0)


def reranker(book: RuleBook | None = None, **fields: object) -> Reranker:
    config = RerankConfig.model_validate({"diversity": Diversity.NONE} | fields)
    return Reranker(config, CATALOGUE, lambda rows: VECTORS[rows], book)


def test_without_diversity_the_best_are_shown_for_certain() -> None:
    stage: Selector = reranker()
    selection = stage.select(query(), candidates())
    assert selection.positions.tolist() == list(range(10))
    assert selection.propensities.tolist() == [1.0] * 10


@pytest.mark.parametrize("method", list(Diversity))
@pytest.mark.parametrize(("n", "k"), [(0, 5), (1, 5), (3, 5), (30, 30)])
def test_lists_are_as_long_as_they_can_be(method: Diversity, n: int, k: int) -> None:
    selection = reranker(diversity=method, per_category=1).select(query(k), candidates(n))
    assert sorted(set(selection.positions.tolist())) == sorted(selection.positions.tolist())
    assert len(selection.positions) == min(n, k)


@pytest.mark.parametrize("method", [Diversity.MMR, Diversity.DPP])
def test_diversity_brings_the_items_of_a_list_further_apart(method: Diversity) -> None:
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)

    def mean_cosine(stage: Reranker) -> float:
        shown = unit[stage.select(query(), candidates()).positions]
        return float((shown @ shown.T)[~np.eye(len(shown), dtype=bool)].mean())

    assert mean_cosine(reranker(diversity=method, strength=0.7)) < mean_cosine(reranker()) - 0.3


def test_only_the_pool_is_considered() -> None:
    selection = reranker(diversity=Diversity.DPP, strength=1.0, pool=12).select(query(), candidates())
    assert selection.positions.max() < 12


def test_caps_by_category_and_creator() -> None:
    shown = reranker(per_category=2, per_creator=1).select(query(6), candidates()).positions
    assert max(Counter(shown % 3).values()) == 2
    assert max(Counter(shown % 10).values()) == 1


def test_pins_take_their_places_when_the_item_may_be_shown(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "rules: [{name: one, pin: {item: i25, position: 1}}, {name: two, pin: {item: i26, position: 1}},"
        " {name: same, pin: {item: i25, position: 2}}, {name: not a candidate, pin: {item: zzz, position: 0}},"
        " {name: below, pin: {item: i27, position: 99}}]"
    )
    shown = reranker(RuleBook(rules), pool=5).select(query(4), candidates()).positions
    assert shown.tolist() == [0, 25, 1, 2]


def test_exploration_draws_evenly_and_records_the_propensity() -> None:
    explore = Exploration(places=(2, 5, 99), pool=4)
    stage = reranker(exploration=explore.model_dump())
    drawn: dict[int, Counter[int]] = {2: Counter(), 5: Counter()}
    for request in range(2000):
        selection = stage.select(query(6, f"r{request}"), candidates())
        assert selection.propensities.tolist() == [1, 1, 0.25, 1, 1, 0.25]
        assert [p for i, p in enumerate(selection.positions.tolist()) if i not in drawn] == [0, 1, 2, 3]
        for place, counts in drawn.items():
            counts[int(selection.positions[place])] += 1
    for counts in drawn.values():
        assert set(counts) == {4, 5, 6, 7}  # the four best of those left over
        assert all(abs(count / 2000 - 0.25) < 0.05 for count in counts.values())  # five standard errors


def test_a_draw_depends_on_the_request_and_the_seed() -> None:
    explore = Exploration(places=tuple(range(10)), pool=30).model_dump()
    first = reranker(exploration=explore).select(query(), candidates()).positions
    assert first.tolist() == reranker(exploration=explore).select(query(), candidates()).positions.tolist()
    assert (
        first.tolist()
        != reranker(exploration=explore, seed=1).select(query(), candidates()).positions.tolist()
    )


def test_exploration_prefers_its_channels() -> None:
    explore = Exploration(places=(0, 1), pool=50, channels=("fresh",)).model_dump()
    selection = reranker(exploration=explore).select(query(4), candidates())
    assert all(position >= 20 for position in selection.positions[:2].tolist())
    assert selection.propensities[0] == pytest.approx(0.1)


def test_exploration_of_a_whole_short_list_still_shows_everything() -> None:
    selection = reranker(exploration=Exploration(places=(0, 1, 2)).model_dump()).select(
        query(5), candidates(3)
    )
    assert sorted(selection.positions.tolist()) == [0, 1, 2]


@needs_native
@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_compiled_list_is_the_same(rng: random.Random) -> None:
    """Vectors of length 1 with few entries of ±1/2: all products are exact, so the order of a sum does not matter."""
    n, d = rng.choice([1, 2, 30]), rng.choice([4, 20, 64])
    vectors = np.zeros((N, d), np.float32)
    for row in range(N):
        vectors[row, rng.sample(range(d), 4)] = [rng.choice([-0.5, 0.5]) for _ in range(4)]
    vectors[rng.randrange(N)] = 0
    scores = np.array([rng.choice([-1.0, 0.0, 0.25, 0.5, 7.0]) for _ in range(n)], np.float32)
    ranked = replace(candidates(n), score=-np.sort(-scores))
    config = RerankConfig(
        diversity=rng.choice([Diversity.NONE, Diversity.MMR]),
        strength=rng.choice([0.25, 0.5, 1.0]),
        pool=rng.choice([1, 10, 50]),
        per_category=rng.choice([0, 1, 3]),
        per_creator=rng.choice([0, 1]),
        exploration=Exploration(places=rng.choice([(), (0, 3)]), pool=5),
    )
    asked = query(rng.choice([1, 7, 40]))
    one, other = (
        Reranker(config, CATALOGUE, lambda rows: vectors[rows], native=native).select(asked, ranked)
        for native in (True, False)
    )
    assert one.positions.tolist() == other.positions.tolist()
    assert one.propensities.tolist() == other.propensities.tolist()


@needs_native
@pytest.mark.parametrize("strength", [0.1, 0.3, 0.9])
def test_compiled_lists_of_random_vectors_differ_at_most_where_gains_are_equal_to_rounding(
    strength: float,
) -> None:
    """A dot product depends on the order of its sum; nothing else may."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        vectors = rng.standard_normal((N, 64)).astype(np.float32)
        ranked = replace(candidates(N), score=-np.sort(-rng.random(N, np.float32)))
        config = RerankConfig(diversity=Diversity.MMR, strength=strength)
        one, other = (
            Reranker(config, CATALOGUE, vectors.__getitem__, native=native).select(query(20), ranked)
            for native in (True, False)
        )
        first = np.flatnonzero(one.positions != other.positions)[:1]
        if first.size:
            gains = _gains(ranked, vectors, strength, other.positions[: first[0]])
            assert abs(gains[one.positions[first[0]]] - gains[other.positions[first[0]]]) < 1e-6


def _gains(
    ranked: Candidates, vectors: NDArray[np.float32], strength: float, chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """By definition, in double precision."""
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float64)
    score = ranked.score.astype(np.float64)
    relevance = (score - score.min()) / (score.max() - score.min())
    nearest = (unit @ unit[chosen].T).max(axis=1) if len(chosen) else -np.ones(len(unit))
    gains: NDArray[np.float64] = (1 - strength) * relevance - strength * nearest
    return gains


@needs_native
@pytest.mark.parametrize(
    "pins",
    ["  - {name: first, pin: {item: i20, position: 1}}", "  - {name: x, pin: {item: i9, position: 0}}"],
)
def test_pins_take_their_places_in_a_compiled_list(pins: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(f"rules:\n{pins}\n")
    book = RuleBook(rules)
    config = RerankConfig(diversity=Diversity.NONE, per_creator=2)
    one, other = (
        Reranker(config, CATALOGUE, lambda rows: VECTORS[rows], book, native=native).select(
            query(), candidates()
        )
        for native in (True, False)
    )
    assert one.positions.tolist() == other.positions.tolist()
