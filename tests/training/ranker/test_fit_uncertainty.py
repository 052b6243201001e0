"""Items whose clicks lie off the predictions by a known variance: it is found, and nothing where there is none."""

import numpy as np
import pytest

from recsys.contracts.types import Head
from recsys.features.definitions import FEATURES
from recsys.ranking.uncertainty import SHOWN
from training.ranker.dataset import RankExamples
from training.ranker.fit_uncertainty import fit_uncertainty

ITEMS, ROWS = 400, 40_000


def examples(
    rng: np.random.Generator, deviation: float, shown: float = 0.0
) -> tuple[RankExamples, np.ndarray]:
    """Rows of items with an effect of their own, and predictions that know nothing of it."""
    items = rng.integers(1, ITEMS + 1, ROWS)
    odds = rng.normal(-1.5, 0.5, ROWS)
    effect = rng.normal(0, deviation, ITEMS + 1)
    clicked = rng.random(ROWS) < 1 / (1 + np.exp(-odds - effect[items]))
    features = np.zeros((ROWS, FEATURES.dimension), np.float32)
    features[:, FEATURES.names.index(SHOWN)] = shown
    labels = np.zeros((ROWS, len(Head)), np.float32)
    labels[:, 0] = clicked
    none = np.zeros((ROWS, 1), np.int32)
    rows = RankExamples(
        none,
        none.astype(np.int8),
        none.astype(np.int8),
        items,
        features,
        np.zeros(ROWS, np.int64),
        labels,
        np.zeros(ROWS, np.int64),
        np.arange(ROWS),
    )
    return rows, (1 / (1 + np.exp(-odds))).astype(np.float32)


@pytest.mark.parametrize("deviation", [0.2, 0.7])
def test_the_variance_of_the_items_is_found(deviation: float) -> None:
    rows, click = examples(np.random.default_rng(1), deviation)
    assert fit_uncertainty(click, rows).item_variance == pytest.approx(deviation**2, rel=0.3)


def test_chance_alone_is_no_uncertainty() -> None:
    rows, click = examples(np.random.default_rng(2), 0.0)
    assert fit_uncertainty(click, rows).item_variance == 0


def test_what_is_left_after_many_impressions_means_more_before_them() -> None:
    rng = np.random.default_rng(3)
    rows, click = examples(rng, 0.2, shown=20.0)
    before = fit_uncertainty(click, rows).item_variance
    assert before > 1.1 * 0.2**2
    learnt = 1 / (1 / before + 20.0 * 0.15)
    assert learnt == pytest.approx(0.2**2, rel=0.35)


def test_rows_of_unknown_items_say_nothing() -> None:
    rows, click = examples(np.random.default_rng(4), 0.7)
    rows.items[:] = 0
    assert fit_uncertainty(click, rows).item_variance == 0
