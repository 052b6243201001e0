"""Neighbours of an item: those of the bundle, then the nearest vectors, also of items newer than the bundle."""

from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.types import Item
from recsys.models.attributes import hash_attributes
from serving.engine.artifacts import Artifacts, LoadOptions, load_artifacts
from tests.bundles import DIMENSION, NEIGHBOURS, tiny_items, tiny_linear, tiny_vectors, write_tiny_bundle

BUCKETS = 64
NEW = Item("new", "New", ("new-wave",), created_ms=1)
ITEMS = tiny_items()
NOW_MS = max(item.created_ms for item in ITEMS) + 1


@pytest.fixture(params=[None, tiny_linear(len(ITEMS))], ids=["tower alone", "with a linear part"])
def artifacts(tmp_path: Path, request: pytest.FixtureRequest) -> Artifacts:
    """The bundle's attribute table gives `NEW` the vector of item 3."""
    attributes = np.zeros((1 + BUCKETS, DIMENSION), np.float32)
    attributes[hash_attributes([NEW], BUCKETS)] = tiny_vectors(len(ITEMS))[3]
    attributes[0] = 0
    bundle = write_tiny_bundle(tmp_path, attributes=attributes, linear=request.param)
    return load_artifacts(bundle, LoadOptions())


def test_items_are_alike_by_the_towers_vectors(artifacts: Artifacts) -> None:
    rows = np.array([5, 0, len(ITEMS) - 1], np.int32)
    np.testing.assert_array_equal(artifacts.vectors(rows), tiny_vectors(len(ITEMS))[rows])


def test_more_than_the_bundle_stores_is_found_by_vector(artifacts: Artifacts) -> None:
    assert len(ITEMS) - 1 > NEIGHBOURS
    rows, scores = artifacts.similar(3, 1_000, NOW_MS)
    assert rows[:NEIGHBOURS].tolist() == artifacts.neighbours[3].tolist()
    assert sorted([*rows.tolist(), 3]) == list(range(len(ITEMS)))
    assert (np.diff(scores) <= 0).all()
    assert artifacts.similar(3, NEIGHBOURS + 2, NOW_MS)[0].tolist() == rows[: NEIGHBOURS + 2].tolist()


def test_an_item_newer_than_the_bundle_has_and_is_a_neighbour(artifacts: Artifacts) -> None:
    artifacts.live.apply([("new", NEW)], [])
    new = artifacts.catalogue.rows["new"]
    rows, _ = artifacts.similar(new, 3, NOW_MS)
    assert rows.tolist() == [3, *artifacts.neighbours[3, :2]]
    assert new in artifacts.similar(3, 1_000, NOW_MS)[0]


def test_what_is_not_out_is_no_neighbour(artifacts: Artifacts) -> None:
    earlier_ms = ITEMS[20].created_ms
    rows, _ = artifacts.similar(3, 15, earlier_ms)
    assert len(rows) == 15
    assert max(rows) <= 20
    assert len(artifacts.similar(3, 1_000, earlier_ms)[0]) == 20
