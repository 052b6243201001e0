"""The same bundle served from FAISS, from parts of it and from Milvus gives the same lists."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundle import open_bundle
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.index_kind import Kind
from recsys.recall.item_vectors import ItemVectors
from serving.engine.index_backend import IndexPlace
from tests.bundles import tiny_vectors, write_tiny_bundle
from tests.serving.conftest import Api, click
from tests.serving.waiting import eventually

HAS_MILVUS = importlib.util.find_spec("pymilvus") and importlib.util.find_spec("milvus_lite")


@pytest.mark.parametrize(
    "place",
    [
        pytest.param({"index_shards": 3}, id="shards"),
        pytest.param(
            {"milvus_uri": "milvus.db"},
            id="milvus",
            marks=pytest.mark.skipif(not HAS_MILVUS, reason="needs the `milvus` extra"),
        ),
    ],
)
def test_the_lists_are_the_same_wherever_the_vectors_are(
    make_api: Callable[..., Api], tmp_path: Path, place: dict[str, Any]
) -> None:
    if "milvus_uri" in place:
        place = {"milvus_uri": str(tmp_path / place["milvus_uri"])}
    lists = []
    for settings in ({}, {**place, "bundle": False}):  # the bundle is there by then
        api = make_api(**settings)
        api.apply([click("item-003"), click("item-004")])
        answer = api.recommend(k=30).json()
        assert answer["degraded"] == []
        found = [i["item_id"] for i in answer["items"] if "two_tower" in i["channels"]]
        assert found
        lists.append(found)
    assert lists[0] == lists[1]
    api.client.delete(f"/v1/items/{found[0]}")
    eventually(lambda: found[0] not in api.list_of(k=30))


@pytest.mark.parametrize("here", [{"index": "exact"}, {"index_shards": 2}], ids=["exact", "shards"])
def test_what_is_of_this_process_and_milvus_together_are_refused_at_the_start(
    make_api: Callable[..., Api], here: dict[str, Any]
) -> None:
    with pytest.raises(InvalidConfig, match="RECSYS_MILVUS_URI"):
        make_api(**here, milvus_uri="http://localhost:19530")


def test_an_index_of_other_size_is_refused_and_a_sharded_one_is_not_saved(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundles")
    with pytest.raises(InvalidBundle, match="index has 40 rows"):
        IndexPlace().open(open_bundle(bundle.path), ItemVectors(tiny_vectors(39)))
    sharded = AnnIndex.build(tiny_vectors(2_000), IndexConfig(Kind.IVF_SQ8, lists=8, shards=2))
    assert sharded.compressed
    with pytest.raises(Exception, match="build it again"):
        sharded.save(tmp_path / "index.faiss")
    sharded.set_effort(8)
    query = tiny_vectors(1, seed=5)
    exact = AnnIndex.build(tiny_vectors(2_000), IndexConfig()).search(query, 50).of(0)
    assert len(np.intersect1d(sharded.search(query, 50).of(0), exact)) >= 45
