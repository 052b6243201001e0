"""The population stability index: nothing moved, everything moved, and an answer worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.errors import InvalidBundle
from recsys.features.drift import Histogram, drift, histograms, read_histograms, write_histograms


def normal(n: int, mean: float = 0.0, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(mean, 1, n).astype(np.float32)


def test_known_answer() -> None:
    halves = Histogram(edges=(0.0, 1.0), shares=(0.0, 0.5, 0.5))
    live = np.array([0.5, 2.0, 2.0, 2.0], np.float32)
    # (1/2 - 1/4) ln 2 + (1/2 - 3/4) ln (2/3), the empty bin adds nothing
    assert halves.psi(live) == pytest.approx(0.25 * np.log(2) + 0.25 * np.log(1.5))


def test_the_same_population_is_stable_and_another_is_not() -> None:
    trained = Histogram.of(normal(20_000))
    assert sum(trained.shares) == pytest.approx(1)
    assert trained.psi(normal(20_000, seed=1)) < 0.01
    assert 0.1 < trained.psi(normal(20_000, 0.5, seed=1)) < 0.4
    assert trained.psi(normal(20_000, 3.0, seed=1)) > 1


@pytest.mark.parametrize("moved", [-1.0, 1.0])
def test_a_constant_that_changes_is_noticed_in_both_directions(moved: float) -> None:
    trained = Histogram.of(np.full(100, 5.0, np.float32))
    assert trained.psi(np.full(100, 5.0, np.float32)) == pytest.approx(0)
    assert trained.psi(np.full(100, 5.0 + moved, np.float32)) > 1


def test_what_moved_most_comes_first_and_files_keep_it(tmp_path: Path) -> None:
    features = np.stack([normal(5_000), normal(5_000, seed=1)], axis=1)
    path = tmp_path / "histograms.json"
    write_histograms(path, histograms(features))
    found = drift(read_histograms(path), ("still", "moved"), features + np.array([0, 2], np.float32))
    assert list(found) == ["moved", "still"]
    assert found["still"] == pytest.approx(0, abs=1e-6)
    path.write_text('{"no": "list"}')
    with pytest.raises(InvalidBundle, match="train again"):
        read_histograms(path)
