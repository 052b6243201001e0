"""What a client sends: its exact gradient, projected and rounded without a bias, and bounded."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recsys.contracts.errors import InvalidConfig
from tests.training.evaluation.histories import history
from training.federated.gradient import drawn_items, item_gradient
from training.federated.population import Population, Windows, cohort
from training.federated.quantize import LEVELS, ROUNDED, clipped, dequantized, quantized
from training.federated.streams import Stream
from training.federated.subspace import directions_of
from training.federated.tower import PooledShape, PooledTower

SHAPE = PooledShape(dim=16, half_lives=(1.0, 8.0), scale=4.0)


def test_no_two_streams_are_the_same() -> None:
    """In round 0, which NumPy takes for no number, in a later one, and without a tag."""
    drawn = [stream.rng(3, number).random() for stream in Stream for number in (0, 1, 2)]
    untagged = np.random.default_rng(3).random()
    assert len({*drawn, untagged}) == 3 * len(Stream) + 1


def test_a_cycle_has_every_direction_once() -> None:
    cycle = [directions_of(3, number, 16, 4) for number in range(4)]
    whole = np.concatenate([directions.basis for directions in cycle], axis=1)
    np.testing.assert_allclose(whole @ whole.T, np.eye(16), atol=1e-6)
    assert set(np.abs(whole).ravel().tolist()) == {0.25}
    assert sorted(np.concatenate([directions.columns for directions in cycle])) == list(range(16))
    np.testing.assert_array_equal(directions_of(3, 1, 16, 4).basis, cycle[1].basis)
    assert (directions_of(3, 4, 16, 4).columns != cycle[0].columns).any(), "another order in the next cycle"
    assert (directions_of(4, 1, 16, 16).basis != directions_of(3, 1, 16, 16).basis).any()


def test_the_projection_is_unbiased() -> None:
    """Over one cycle the mean of (d / r) G A Aᵀ is G."""
    matrix = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    bases = [directions_of(0, number, 16, 2).basis for number in range(8)]
    found = np.mean([16 / 2 * matrix @ a @ a.T for a in bases], axis=0)
    np.testing.assert_allclose(found, matrix, atol=1e-5)


def test_impossible_subspaces_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="12 is not a power of two"):
        directions_of(0, 0, 12, 2)
    with pytest.raises(InvalidConfig, match="rank: 3 does not divide dim 16"):
        directions_of(0, 0, 16, 3)


def test_rounding_is_unbiased_and_bounded() -> None:
    update = np.random.default_rng(1).standard_normal((1, 30)).astype(np.float32)
    update = clipped(update, 2.0)
    assert np.linalg.norm(update) == pytest.approx(2.0)
    rng = np.random.default_rng(2)
    rows = quantized(np.repeat(update, 4_000, axis=0), 2.0, rng)
    deviation = 2.0 / LEVELS / 2 / 4_000**0.5  # at most, of the mean
    assert np.abs(dequantized(rows.mean(0), 2.0) - update).max() < 5 * deviation
    assert np.linalg.norm(rows.astype(float), axis=1).max() <= ROUNDED * LEVELS


def test_a_row_that_rounding_makes_too_long_is_not_sent() -> None:
    flat = np.full((50, 40_000), 1 / 200, np.float32)  # of length 1: each value is under one step
    assert not quantized(flat, 1.0, np.random.default_rng(0)).any()


def test_what_is_not_finite_is_not_sent() -> None:
    rows = np.array([[np.nan, 1], [np.inf, 1], [3, 4]], np.float32)
    expected = np.array([[0, 0], [0, 0], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(clipped(rows, 1.0), expected, rtol=1e-6)


def test_the_gradient_is_that_of_the_loss() -> None:
    """Against automatic differentiation of the loss as it is defined, one place after another."""
    torch.manual_seed(0)
    table = F.pad(F.normalize(torch.randn(12, 16), dim=-1), (0, 0, 1, 0))
    windows = Windows(np.array([[0, 0, 3, 5, 7], [1, 2, 3, 4, 5]]), np.array([[4, 3, -1], [1, 4, 2]]))
    tower, exact, losses = PooledTower(SHAPE), table.clone().requires_grad_(), []
    for events, places in zip(windows.history.tolist(), windows.places.tolist(), strict=True):
        asked = [place for place in places if place >= 0]
        for place in asked:
            before = torch.tensor([events[:place]])
            user = tower(exact[before], (before > 0).long(), torch.zeros_like(before))[0]
            others = [n for n in range(1, 13) if n not in events or n == events[place]]
            logits = (exact @ user)[others]
            wanted = torch.tensor(others.index(events[place]))
            losses.append(F.cross_entropy(logits, wanted) / len(asked))
    torch.autograd.backward(torch.stack(losses).sum())
    found = item_gradient(tower, table, windows, drawn_items(2, 12, 0, np.random.default_rng(0)))
    assert exact.grad is not None
    torch.testing.assert_close(found.total(), exact.grad[1:], atol=1e-5, rtol=1e-4)
    assert float(found.loss.sum()) == pytest.approx(float(torch.stack(losses).detach().sum()), rel=1e-5)
    basis = directions_of(0, 0, 16, 4).basis
    own = found.projected(basis).reshape(2, 12, 4)
    np.testing.assert_allclose(own.sum(0), found.total().numpy() @ basis, atol=1e-5)


def test_a_sample_stands_for_the_catalogue() -> None:
    """Drawing every item twice, in any order, is drawing all: the loss and the gradient are the same."""
    torch.manual_seed(1)
    table = F.pad(F.normalize(torch.randn(12, 16), dim=-1), (0, 0, 1, 0))
    windows = Windows(np.array([[3, 5, 7, 2]]), np.array([[3, 1]]))
    rng = np.random.default_rng(0)
    exact = item_gradient(PooledTower(SHAPE), table, windows, drawn_items(1, 12, 0, rng))
    twice = rng.permutation(np.tile(np.arange(1, 13), 2))[None]
    drawn = item_gradient(PooledTower(SHAPE), table, windows, twice)
    torch.testing.assert_close(drawn.loss, exact.loss)
    torch.testing.assert_close(drawn.total(), exact.total(), atol=1e-5, rtol=1e-4)
    assert drawn_items(2, 12, 5, rng).shape == (2, 5)


def test_a_longer_window_of_padding_changes_no_user() -> None:
    tower, items = PooledTower(SHAPE), torch.randn(1, 3, 16)
    types = torch.ones(1, 3, dtype=torch.long)
    padded = tower(F.pad(items, (0, 0, 4, 0)), F.pad(types, (4, 0)), F.pad(types, (4, 0)))
    torch.testing.assert_close(padded, tower(items, types, types))
    assert not tower(torch.zeros(1, 3, 16), types * 0, types * 0).any()
    assert float(padded.norm()) == pytest.approx(4.0, rel=1e-4)


def test_the_newest_items_weigh_most() -> None:
    tower, (i, j) = PooledTower(SHAPE), F.normalize(torch.randn(2, 16), dim=-1)
    both, two = torch.stack([i, j])[None], torch.ones(1, 2, dtype=torch.long)
    user = tower(both, two, two)[0]
    assert not torch.allclose(user, tower(both.flip(1), two, two)[0])
    # of the first head, half-life 1: i counts half of j
    torch.testing.assert_close(user[:8], F.normalize(i[:8] / 2 + j[:8], dim=0) * 4 / 2**0.5)


def test_windows_predict_only_new_items_that_something_came_before() -> None:
    population = Population(
        [history("a", 1, 2, 1, 3, 4, 5, 6), history("b", 9), history("c", 7, 7), history("d", 8, 2)]
    )
    assert len(population) == 2, "clients with one item take no part"
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        windows = population.windows(np.array([0, 1]), 4, 2, rng)
        assert windows.history.shape == (2, 4)
        assert windows.history[1].tolist() == [0, 0, 8, 2]
        assert [place for place in windows.places[1] if place >= 0] == [3]
        targets = [windows.history[0, place] for place in windows.places[0] if place > 0]
        assert 0 not in windows.places[0], "nothing of the window is before its first event"
        seen |= set(targets)
    assert seen == {2, 3, 4, 5, 6}
    assert population.seen_by(9).tolist() == [1, 2, 1, 1, 1, 1, 0, 1, 0]


def test_cohorts_are_poisson_samples() -> None:
    rng = np.random.default_rng(0)
    sizes = [len(cohort(1_000, 0.2, rng)) for _ in range(300)]
    assert np.mean(sizes) == pytest.approx(200, abs=3)
    assert np.std(sizes) == pytest.approx(12.6, abs=2)
