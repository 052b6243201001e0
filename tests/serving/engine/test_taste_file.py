"""A bundle's taste model: only the published one is used, and only with a ranker that was trained with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.errors import InvalidBundle
from recsys.features.definitions import FEATURES
from recsys.features.tally import TallyReader
from recsys.ranking.scorer import TasteColumn
from recsys.ranking.taste import REST, Taste, TasteModel, write_taste
from serving.engine.artifacts import LoadOptions, load_artifacts
from serving.engine.pipeline_builder import _check_width
from tests.bundles import write_tiny_bundle

TASTE = Taste(
    categories=[REST], base=0.0, mean=[0.0], covariance=[[1.0]], weights={}, conversion={}, taste=1.0, sameness=-0.5
)  # fmt: skip


class Wide:
    def __init__(self, n_features: int | None) -> None:
        self.n_features = n_features


def test_a_file_that_was_not_published_is_not_read(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    write_taste(bundle.path, TASTE)
    artifacts = load_artifacts(bundle, LoadOptions())
    assert artifacts.taste is None
    assert artifacts.sameness == 0.0


def test_ranker_and_taste_model_must_fit(tmp_path: Path) -> None:
    without = load_artifacts(write_tiny_bundle(tmp_path), LoadOptions())
    nothing = np.zeros((0, 4), np.int64)
    column = TasteColumn(TasteModel(TASTE, FEATURES), TallyReader(FEATURES), lambda rows: nothing)
    both = replace(without, taste=column)
    assert both.sameness == -0.5
    d = FEATURES.dimension
    for width, artifacts in ((d, without), (d + 2, both), (None, both)):
        _check_width(Wide(width), artifacts)  # type: ignore[arg-type]
    for width, artifacts in ((d + 2, without), (d, both)):
        with pytest.raises(InvalidBundle, match=r"taste\.json"):
            _check_width(Wide(width), artifacts)  # type: ignore[arg-type]
