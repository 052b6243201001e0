"""The linear part is EASE cut to a rank; its weight is what held-out events want, and none where it is of no use."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from recsys.contracts.types import Item
from recsys.items.item_table import items_table
from recsys.lake.lake import write_parquet
from recsys.metrics import ndcg
from recsys.models.two_tower import TwoTowerShape
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.two_tower import UserTower
from training.two_tower import export as export_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.cooccurrence import interactions
from training.two_tower.ease import item_weights
from training.two_tower.linear import REGULARISATIONS, choose, fit_linear, linear_scorer
from training.two_tower.retrieval import Cases, Scorer, next_item_ranks
from training.two_tower.sequences import History, write_sequences
from training.two_tower.train import main
from training.two_tower.warm_start import trained_config

N_ITEMS = 40


def history(user: int, numbers: list[int]) -> History:
    n = len(numbers)
    return History(f"u{user:03}", np.array(numbers), np.full(n, 2), 1_000_000 + 60_000 * np.arange(n))


def groups(users: int, seed: int = 0) -> list[History]:
    """Each user takes items of one of four groups, in any order, and now and then another."""
    rng = np.random.default_rng(seed)
    return [
        history(u, [*(rng.permutation(10)[:5] * 4 + u % 4 + 1).tolist(), int(rng.integers(1, N_ITEMS + 1))])
        for u in range(users)
    ]


@given(st.integers(2, 25), st.floats(1, 100), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_of_full_rank_it_is_ease(n_items: int, regularisation: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    histories = [history(u, (rng.permutation(n_items)[:2] + 1).tolist()) for u in range(30)]
    linear = fit_linear(interactions(histories, n_items), 100, regularisation, seed)
    expected = item_weights(interactions(histories, n_items), regularisation)
    np.testing.assert_allclose(linear.history @ linear.candidates.T, expected, atol=1e-4)


def test_a_lower_rank_is_the_best_of_its_rank_and_the_same_every_time() -> None:
    histories = groups(200)
    linear = fit_linear(interactions(histories, N_ITEMS), 8, 10.0, 0)
    assert linear.history.shape == linear.candidates.shape == (N_ITEMS, 8)
    weights = item_weights(interactions(histories, N_ITEMS), 10.0)
    values = np.linalg.svd(weights, compute_uv=False)
    error = np.linalg.norm(weights - linear.history @ linear.candidates.T)
    assert error <= 1.001 * np.linalg.norm(values[8:])
    again = fit_linear(interactions(histories, N_ITEMS), 8, 10.0, 0)
    np.testing.assert_array_equal(linear.history, again.history)


def test_the_most_popular_items_alone_have_one() -> None:
    histories = [history(u, [5, 2, 9] if u % 2 else [5, 2, 7]) for u in range(20)]
    linear = fit_linear(interactions(histories, N_ITEMS), 4, 1.0, 0, most=3)
    shown = np.flatnonzero(linear.candidates.any(axis=1) | linear.history.any(axis=1))
    assert shown.tolist() == [1, 4, 6], "7 and 9 are equally popular: the first one"
    expected = item_weights(interactions(histories, N_ITEMS)[:, shown], 1.0)
    np.testing.assert_allclose(
        (linear.history @ linear.candidates.T)[np.ix_(shown, shown)], expected, atol=1e-4
    )


def test_where_float32_cannot_invert_the_matrix_it_is_regularised_more() -> None:
    everybody = [history(u, [1, 2, 3]) for u in range(5_000)]
    with pytest.raises(np.linalg.LinAlgError):
        item_weights(interactions(everybody, 3), 1e-9)
    linear = fit_linear(interactions(everybody, 3), 3, 1e-9, 0)
    assert (linear.of(np.array([[1, 2]])) @ linear.candidates.T)[0, 2] == pytest.approx(1, abs=0.01)


def constant(scores: np.ndarray) -> Scorer:
    return lambda histories, now_ms: np.tile(scores.astype(np.float32), (len(histories), 1))


def test_the_weight_follows_the_held_out_events() -> None:
    cases = Cases([history(u, [1 + u % 5]) for u in range(50)], [np.array([7])] * 50, [0] * 50)
    wanted, other = np.zeros(N_ITEMS), np.zeros(N_ITEMS)
    wanted[7], other[20:32] = 1.0, 1.0
    useful = choose(constant(4 * other), {200.0: constant(wanted)}, cases, N_ITEMS)
    assert (useful.weight, useful.hr10, useful.ndcg10) == (5.0, 1.0, 1.0), "the least that is best"
    harmful = choose(constant(wanted), {200.0: constant(other)}, cases, N_ITEMS)
    assert (harmful.weight, harmful.ndcg10) == (0.0, 1.0)
    assert choose(constant(wanted), {200.0: constant(wanted)}, cases, N_ITEMS).weight == 0.0


def test_it_reads_the_newest_events_as_they_are_served() -> None:
    linear = fit_linear(interactions(groups(100), N_ITEMS), 40, 10.0, 0)
    long, short = history(0, [1, 2, 3, 4, 4, 5]), history(1, [7])
    both = linear_scorer(linear, 3)([long, short], [0, 0])
    np.testing.assert_allclose(both[0], linear_scorer(linear, 9)([history(0, [4, 5])], [0])[0], atol=1e-6)
    np.testing.assert_allclose(both[1], linear_scorer(linear, 9)([short], [0])[0], atol=1e-6)


@pytest.fixture
def config(tmp_path: Path) -> TwoTowerConfig:
    items = [Item(f"i{n:02}") for n in range(N_ITEMS)]
    write_sequences(tmp_path / "sequences" / "a.parquet", groups(300), items, row_group=64)
    write_parquet(tmp_path / "items.parquet", items_table(items))
    return TwoTowerConfig(
        sequences=tmp_path / "sequences",
        items=tmp_path / "items.parquet",
        work=tmp_path / "work",
        shape=TwoTowerShape(dim=8, blocks=1, heads=1, hidden=8, attribute_buckets=8),
        epochs=1,
        validation=Validation.LAST_ITEM,
        threads=1,
        linear_rank=16,
        linear_regularisation=10.0,
    )


def test_a_tower_that_has_learnt_little_is_helped_and_served_so(
    config: TwoTowerConfig, tmp_path: Path
) -> None:
    alone = main(config.replace(linear_rank=0, work=tmp_path / "alone"))
    helped = main(config)
    assert helped.linear is not None
    assert (helped.config.linear_weight or 0) > 0
    assert helped.validation["ndcg@10"] > alone.validation["ndcg@10"]
    assert alone.linear is None
    unseen = groups(200, seed=1)
    others = Cases(
        [h.before(4) for h in unseen], [h.numbers[4:5] - 1 for h in unseen], [int(h.times[4]) for h in unseen]
    )
    ours, theirs = (ndcg(next_item_ranks(r.scorer(), others, N_ITEMS), 10) for r in (helped, alone))
    assert ours > theirs + 0.05, "of users that the weight was not chosen on, too"

    work = export_two_tower.main(helped, tmp_path / "out", neighbours=4)
    assert trained_config(work).linear_weight == helped.config.linear_weight
    assert json.loads((work / "summary.json").read_text())["metrics"] == helped.validation
    golden, items = (load_file(work / name) for name in ("golden.safetensors", "item_vectors.safetensors"))
    inputs = {name: golden[f"user_tower/in/{name}"] for name in ("history", "types", "gaps")}
    vectors = ItemVectors.of(items)
    for native in (False, True):
        tower = UserTower(work / "user_tower.onnx", vectors.vectors, native, vectors.linear)
        users = tower.vectors(**inputs)
        np.testing.assert_allclose(users, golden["user_tower/out/user_vector"], atol=1e-4)
    asked = [h.before(4) for h in groups(7)]
    now = [int(h.times[-1]) + 60_000 for h in asked]
    encoded = export_two_tower.golden_inputs(asked, export_two_tower.LENGTH, None)
    served = tower.vectors(**encoded)[1:] @ vectors.indexed.T  # the first has no history
    np.testing.assert_allclose(served, helped.scorer()(asked, now), atol=1e-3)


def test_the_regularisation_is_chosen_of_few_items(
    config: TwoTowerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = {
        value: main(config.replace(linear_regularisation=value, work=tmp_path / str(value)))
        for value in REGULARISATIONS
    }
    best = max(tried.values(), key=lambda result: result.validation["ndcg@10"])
    chosen = main(config.replace(linear_regularisation=None, work=tmp_path / "chosen"))
    assert chosen.validation == best.validation
    assert chosen.config.linear_regularisation == best.config.linear_regularisation
    monkeypatch.setattr("training.two_tower.linear.FEW_ITEMS", N_ITEMS - 1)
    first = main(config.replace(linear_regularisation=None, work=tmp_path / "first"))
    assert first.config.linear_regularisation == REGULARISATIONS[0]


def test_a_weight_of_ones_own_is_taken_and_none_without_held_out_events(
    config: TwoTowerConfig, tmp_path: Path
) -> None:
    without = main(config.replace(validation=Validation.NONE))
    assert (without.linear, without.config.linear_weight) == (None, None)
    own = main(config.replace(validation=Validation.NONE, linear_weight=3.0))
    assert own.linear is not None
    assert own.config.linear_weight == 3.0
    twice = main(config.replace(validation=Validation.NONE, linear_weight=6.0))
    assert twice.linear is not None
    np.testing.assert_allclose(twice.linear.history, 2 * own.linear.history, rtol=1e-5)
    assert main(config.replace(linear_weight=0.0, work=tmp_path / "none")).linear is None
