"""A truth of two features and one product among noise: the choice must find exactly that."""

import json
from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.errors import InvalidData
from recsys.result import Result
from training.evaluation.feature_selection import Selection, Split, cross, main

NAMES = ("strong", "weak", "left", "right", *(f"noise{i}" for i in range(6)), "constant")


def world(n: int, seed: int) -> Split:
    """Clicks follow `strong`, a little `weak`, and the product of `left` and `right`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(NAMES))).astype(np.float32)
    x[:, -1] = 7.0
    log_odds = 1.0 * x[:, 0] + 0.4 * x[:, 1] + 1.0 * x[:, 2] * x[:, 3]
    clicks = (rng.random(n) < 1 / (1 + np.exp(-log_odds))).astype(np.int64)
    return Split(x, clicks, rng.integers(0, n // 20, n))


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("selection")
    # of a depth that cannot build the product well from few trees
    config = Selection(out=out, trees=40, repeats=2, crossed=4, noise=1e-3, tolerance=5e-3)
    return out, main(config, NAMES, world(6_000, 0), world(4_000, 1), world(4_000, 2))


def test_noise_is_dropped_and_what_matters_is_kept(chosen: tuple[Path, Result]) -> None:
    out, result = chosen
    content = json.loads((out / "selection.json").read_text())
    assert content["ranked"][0]["name"] == "strong"
    assert {"strong", "weak", "left", "right"}.isdisjoint(content["dropped"])
    assert "constant" in content["dropped"]
    assert len(content["dropped"]) >= 4
    assert result.met
    assert result.figures["kept"] == len(NAMES) - len(content["dropped"])


def test_the_product_is_proposed_and_raises_auc_on_rows_that_chose_nothing(
    chosen: tuple[Path, Result],
) -> None:
    out, result = chosen
    crosses = json.loads((out / "selection.json").read_text())["crosses"]
    assert crosses[0]["name"] == "left × right"
    assert result.figures["test_auc_crossed"] > result.figures["test_auc_kept"]


def test_crosses_are_defined_everywhere() -> None:
    features = np.array([[6.0, 3.0], [1.0, 0.0], [np.nan, 1.0]], np.float32)
    np.testing.assert_array_equal(cross("a × b", features, ("a", "b")), np.array([18, 0, np.nan], np.float32))
    np.testing.assert_array_equal(
        cross("a ÷ b", features, ("a", "b")), np.array([2, np.nan, np.nan], np.float32)
    )
    np.testing.assert_array_equal(
        cross("b − a", features, ("a", "b")), np.array([-3, -1, np.nan], np.float32)
    )


def test_one_label_only_is_refused(tmp_path: Path) -> None:
    rows = world(200, 0)
    silent = Split(rows.features, np.zeros(200, np.int64), rows.users)
    with pytest.raises(InvalidData, match="validation rows have one click label only"):
        main(Selection(out=tmp_path), NAMES, rows, silent, rows)
