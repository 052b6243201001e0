"""All totals of a user at once, against their definition: a sum of weights by tile age."""

import random

import numpy as np

from recsys.contracts.state import MAX_SUM
from recsys.contracts.types import MS_PER_DAY
from recsys.features.aggregates import BUCKETS, Aggregate, Entity, Split
from recsys.features.definitions import FEATURES
from recsys.features.feature_set import runs
from recsys.features.spec import Total
from recsys.features.user_totals import UserTotals

NOW = 20_000 * MS_PER_DAY + 12_345_678
TOTALS = UserTotals(FEATURES)
BY_SPLIT = {
    Split.CATEGORY: np.array([[3, 7, BUCKETS], [4, BUCKETS, BUCKETS]]),  # two categories, one, none
    Split.CREATOR: np.array([[7, 9, BUCKETS]]),
    Split.ITEM: np.array([[2, 5, 11]]),
}


def aggregates() -> list[Aggregate]:
    return [a for a in FEATURES.aggregates if a.entity is Entity.USER]


def random_cells(seed: int) -> dict[str, int]:
    """Tiles from before every window to after now, in few buckets."""
    rng = random.Random(seed)
    cells = {}
    for aggregate in aggregates():
        for _ in range(40):
            cell = aggregate.name
            if aggregate.hop_ms:
                age = rng.randrange(-2, aggregate.retention_ms // aggregate.hop_ms + 3)
                cell += f"@{NOW // aggregate.hop_ms - age}"
            if aggregate.split:
                cell += f"#{rng.randrange(12)}"
            cells[cell] = rng.choice([1, 2, 10**12, MAX_SUM])
    return cells


def defined(total: Total, cells: dict[str, int], buckets: list[int]) -> int:
    endings = [f"#{b}" for b in buckets] if total.split else [""]
    if not total.window.hop_ms:
        return min(sum(cells.get(total.aggregate_name + ending, 0) for ending in endings), MAX_SUM)
    newest, most = NOW // total.window.hop_ms, MAX_SUM // total.window.unit
    every: int = sum(
        weight * min(cells.get(f"{total.aggregate_name}@{newest - age}{ending}", 0), most)
        for age, weight in enumerate(total.window.weights.tolist())
        for ending in endings
    )
    return min(every, MAX_SUM)


def test_each_total_is_the_sum_of_weights_by_tile_age() -> None:
    for seed in range(5):
        cells = random_cells(seed)
        found = TOTALS.read(cells, NOW, BY_SPLIT)
        assert set(found) == {t for t in FEATURES.totals if t.entity is Entity.USER}
        for total, value in found.items():
            if total.split is Split.NONE:
                assert value == defined(total, cells, [])
            else:
                expected = [defined(total, cells, of.tolist()) for of in BY_SPLIT[total.split].T]
                assert np.asarray(value).tolist() == expected


def test_an_unknown_user_has_zeros() -> None:
    assert not any(np.any(value) for value in TOTALS.read({}, NOW, BY_SPLIT).values())


def test_cells_of_another_feature_set_are_left_out() -> None:
    cells = random_cells(1)
    found, expected = (
        TOTALS.read(c, NOW, BY_SPLIT) for c in (cells | {"gone.d@20000#3": 5, "gone": 7}, cells)
    )
    assert all(np.array_equal(found[total], expected[total]) for total in expected)


def test_columns_as_stretches() -> None:
    assert runs(np.array([4, 5, 9])) == [(slice(4, 6), slice(0, 2)), (slice(9, 10), slice(2, 3))]
    assert runs(np.array([], np.intp)) == []
