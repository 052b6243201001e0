"""The taste model: its posterior against the conditions that define it, offsets, and the file."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsys.contracts.errors import InvalidBundle
from recsys.features.aggregates import BUCKETS, bucket_of
from recsys.features.definitions import FEATURES
from recsys.features.tally import Tally
from recsys.models.encoding import OFFSET_LIMIT
from recsys.ranking.taste import REST, Floats, Taste, TasteModel, posterior, read_taste, write_taste

NOTHING = Tally(np.array([0, 0]), np.empty(0, np.int64), np.empty((0, 2), np.int64))
COUNTS = hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 300))
MEAN = np.array([-0.5, 0.2, 0.0, 1.0])


def random_covariance(seed: int, k: int = 4) -> Floats:
    factor = np.random.default_rng(seed).normal(size=(k, 2))
    return np.asarray(factor @ factor.T + 0.1 * np.eye(k))


def taste(**changes: object) -> Taste:
    fields: dict[str, object] = {
        "categories": ["drama", "crime", REST],
        "base": -1.0,
        "mean": [0.0, 0.5, -0.5],
        "covariance": [[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 0.5]],
        "weights": {"intercept": 0.25, "looks": -0.5},
        "conversion": {"intercept": -1.0, "click": 0.5},
        "taste": 1.0,
        "sameness": -0.4,
    }
    return Taste(**fields | changes)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(COUNTS, COUNTS, st.integers(0, 20), st.floats(-4, 2))
def test_the_posterior_is_where_the_gradient_vanishes(
    ignored: Floats, clicked: Floats, seed: int, base: float
) -> None:
    """θ - mean = Σ · (clicks - looks · σ(base + θ)): the prior pulls as the clicks push."""
    covariance, looked = random_covariance(seed), clicked + np.maximum(ignored, 1)
    theta = posterior(MEAN, covariance, base, looked, clicked)
    pull = (clicked - looked / (1 + np.exp(-(base + theta)))) @ covariance
    np.testing.assert_allclose(theta - MEAN, pull, rtol=0.01, atol=0.05)


def test_more_clicks_than_looks_are_as_many_looks() -> None:
    """A click from elsewhere has no look; and the tenth place counts a third of one."""
    covariance, clicked = random_covariance(1), np.array([[3.0, 0.0, 40.0, 0.0]])
    found = posterior(MEAN, covariance, -1.0, np.zeros((1, 4)), clicked)
    assert found.tolist() == posterior(MEAN, covariance, -1.0, clicked, clicked).tolist()
    assert np.isfinite(found).all()
    assert found[0, 2] > MEAN[2]


def test_who_has_seen_nothing_is_like_everybody() -> None:
    nothing = np.zeros((1, 4))
    assert posterior(MEAN, random_covariance(0), -2.0, nothing, nothing).tolist() == [MEAN.tolist()]


def test_clicks_in_one_category_say_something_of_its_relatives() -> None:
    model = TasteModel(taste(), FEATURES)
    likes_drama = Tally(np.array([0, 1]), np.array([bucket_of("drama")]), np.array([[10_000, 8]]))
    before, after = (tastes(model, tally, ["drama", "crime", "other"]) for tally in (NOTHING, likes_drama))
    assert before.tolist() == [-1.0, -0.5, -1.5]
    assert after[0] > before[0] + 1
    assert before[1] + 0.7 * (after[0] - before[0]) < after[1] < after[0] + 0.5
    assert after[2] == before[2], "not related"


def tastes(model: TasteModel, tally: Tally, categories: list[str]) -> Floats:
    buckets = np.full((len(categories), 4), BUCKETS)
    buckets[:, 0] = [bucket_of(category) for category in categories]
    return model.tastes(tally, np.zeros(len(categories), np.int64), buckets)


def test_an_item_has_the_mean_of_its_categories_and_without_one_that_of_the_rest() -> None:
    buckets = np.full((2, 4), BUCKETS)
    buckets[0, :2] = bucket_of("drama"), bucket_of("crime")
    found = TasteModel(taste(), FEATURES).tastes(NOTHING, np.zeros(2, np.int64), buckets)
    assert found.tolist() == [-0.75, -1.5]


def test_offsets_add_effects_and_taste_within_bounds() -> None:
    features = np.zeros((3, FEATURES.dimension), np.float32)
    features[:, FEATURES.column("item_looked_by_user_decay7d")] = 2.0, 1e9, np.nan
    buckets = np.full((3, 4), BUCKETS)
    buckets[:, 0] = bucket_of("crime")
    owner = np.zeros(3, np.int64)
    found = TasteModel(taste(), FEATURES).offsets(NOTHING, owner, buckets, features)
    assert found.dtype == np.float32
    assert found[:, 0].tolist() == [0.25 - 1.0 - 0.5, -OFFSET_LIMIT, 0.25 - 0.5]
    assert found[[0, 2], 1].tolist() == [-1 - 1.25 / 2, -1 - 0.25 / 2]
    without = TasteModel(taste(taste=0.0), FEATURES).offsets(NOTHING, owner, buckets, features)
    assert without[:, 0].tolist() == [0.25 - 1.0, -OFFSET_LIMIT, 0.25]
    untaught = TasteModel(taste(conversion={}), FEATURES).offsets(NOTHING, owner, buckets, features)
    assert untaught[:, 1].tolist() == [0.0, 0.0, 0.0], "left to the ranker"


def test_rows_of_many_users_have_each_their_own_taste() -> None:
    model, drama = TasteModel(taste(), FEATURES), np.full((4, 4), BUCKETS)
    drama[:, 0] = bucket_of("drama")
    both = Tally(np.array([0, 0, 1]), np.array([bucket_of("drama")]), np.array([[10_000, 8]]))
    found = model.tastes(both, np.array([1, 0, 0, 1]), drama)
    assert found[0] == found[3] > found[1] == found[2] == -1.0


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_taste(tmp_path) is None
    write_taste(tmp_path, taste())
    assert read_taste(tmp_path) == taste()


@pytest.mark.parametrize(
    "damage",
    [
        {"mean": [0.0]},
        {"covariance": [[1.0]]},
        {"categories": ["drama", "crime", "war"]},
        {"weights": {"unheard of": 1.0}},
        {"conversion": {"unheard of": 1.0}},
        {"taste": "much"},
        {"base": float("nan")},
        {"sameness": None},
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    content = msgspec.to_builtins(taste()) | damage
    (tmp_path / "taste.json").write_bytes(msgspec.json.encode(content))
    with pytest.raises(InvalidBundle, match=r"taste\.json"):
        read_taste(tmp_path)
