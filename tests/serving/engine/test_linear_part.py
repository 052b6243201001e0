"""A bundle with a linear part, served: the channel finds what both parts score highest, whatever searches for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.request import Query
from recsys.contracts.types import Item
from recsys.models.encoding import encode_arrays
from recsys.recall.ann import AnnIndex
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.two_tower import TwoTowerSource, UserTower
from recsys.rerank.reranker import Reranker
from serving.engine.artifacts import LoadOptions, load_artifacts
from serving.engine.index_backend import IndexPlace
from tests.bundles import DIMENSION, tiny_items, tiny_linear, tiny_vectors, user_tower, write_tiny_bundle
from tests.serving.conftest import NOW_MS, Api, click

N_ITEMS = len(tiny_items())
VECTORS = ItemVectors(tiny_vectors(N_ITEMS), None, tiny_linear(N_ITEMS))


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(),
        LoadOptions(index=IndexPlace(exact=True)),
        LoadOptions(index=IndexPlace(shards=2)),
        LoadOptions(batch=4),
    ],
    ids=["its index", "exact", "shards", "batches"],
)
def test_the_channel_has_what_both_parts_score_highest(tmp_path: Path, options: LoadOptions) -> None:
    loaded = load_artifacts(write_tiny_bundle(tmp_path, linear=VECTORS.linear), options)
    history = np.array([4, 5, 4])
    encoded = encode_arrays(history, np.ones_like(history), np.full(3, NOW_MS), NOW_MS, 50)
    query = Query("r", "u", 5, NOW_MS, **encoded._asdict())
    tower = UserTower(user_tower(VECTORS.vectors), VECTORS.vectors, linear=VECTORS.linear)
    best = np.argsort(-(tower.vectors(*(array[None] for array in encoded)) @ VECTORS.indexed.T)[0])
    for _ in range(2):  # the second time from the cache of user vectors
        found = TwoTowerSource(loaded.tower, loaded.index, limit=10).recall(query)
        assert found.tolist() == best[:10].tolist()


@pytest.mark.parametrize("native", ["auto", "off"])
def test_the_diversity_of_a_list_is_that_of_the_towers_vectors(
    make_api: Callable[..., Api], tmp_path: Path, native: str
) -> None:
    write_tiny_bundle(tmp_path / "var" / "bundles", "v1", linear=VECTORS.linear)
    api = make_api(bundle=False, native=native)
    api.apply([click("item-003"), click("item-004")])
    assert api.recommend(k=20).json()["degraded"] == []
    selector = api.services.host.require().pipeline.selector
    assert isinstance(selector, Reranker)
    rows = np.arange(4, dtype=np.int32)
    np.testing.assert_array_equal(selector.vectors_of(rows), VECTORS.vectors[rows])


def test_a_catalogue_that_grows_is_still_searched_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, linear = tiny_items(1_200), tiny_linear(1_200)
    vectors = ItemVectors(tiny_vectors(1_200), None, linear).indexed
    attributes = np.ones((65, DIMENSION), np.float32)
    loaded = load_artifacts(
        write_tiny_bundle(tmp_path, items=items, linear=linear, attributes=attributes), LoadOptions()
    )
    loaded.live.apply([(f"new-{n}", Item(f"new-{n}", categories=("c",))) for n in range(5)], [])
    monkeypatch.setattr("recsys.recall.ann.EXACT_UP_TO", 1_000)
    loaded.index.rebuild()
    assert len(loaded.index) == 1_205
    query = vectors[:20]
    found = loaded.index.search(query, 300).rows
    for row, scores in zip(found, query @ vectors.T, strict=True):
        assert set(np.argsort(-scores)[:250]) <= set(row.tolist()), "but for the five new ones"


def test_an_index_of_another_width_is_refused(tmp_path: Path) -> None:
    def narrow(folder: Path) -> None:
        AnnIndex.build(VECTORS.vectors).save(folder / "index.faiss")

    bundle = write_tiny_bundle(tmp_path, linear=VECTORS.linear, finish=narrow)
    with pytest.raises(InvalidBundle, match="40 rows of 8 values, the item vectors 40 of 11; publish"):
        load_artifacts(bundle, LoadOptions())
