"""The tiny bundle is a good stand-in: the parts of serving that read a bundle accept it."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidBundle
from recsys.items.item_table import read_items
from recsys.ranking.scorer import RankerSession
from recsys.recall.ann import AnnIndex
from recsys.recall.two_tower import UserTower
from serving.engine.golden import check_ranker, check_tower
from tests.bundles import tiny_items, tiny_vectors, write_tiny_bundle


def tower_of(bundle: Bundle) -> UserTower:
    return UserTower(bundle.file("user_tower.onnx"), bundle.arrays("item_vectors.safetensors")["vectors"])


def test_the_tiny_bundle_passes_the_golden_check_and_is_readable(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundles")
    check_tower(bundle, tower_of(bundle))
    check_ranker(bundle, RankerSession(bundle.file("ranker.onnx")))
    assert read_items(bundle.file("items.parquet")) == tiny_items()
    assert RankerSession(bundle.file("ranker.onnx")).n_features == len(bundle.manifest.feature_names)
    vectors = bundle.arrays("item_vectors.safetensors")["vectors"]
    np.testing.assert_array_equal(vectors, load_file(bundle.file("item_vectors.safetensors"))["vectors"])
    assert not vectors.flags.writeable
    history = np.array([[0, 0, 5]])
    user = UserTower(bundle.file("user_tower.onnx"), vectors).vectors(
        history, np.zeros_like(history), np.zeros_like(history)
    )
    np.testing.assert_allclose(user[0], vectors[4], rtol=1e-6)
    assert AnnIndex.load(bundle.file("index.faiss")).search(user, 1).of(0).tolist() == [4]


def test_the_golden_check_takes_towers_of_before_and_sees_vectors_of_another_training(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundles", gathers=False)
    check_tower(bundle, tower_of(bundle))
    bundle = write_tiny_bundle(tmp_path / "others")
    other = {"vectors": tiny_vectors(len(tiny_items()), seed=9)}
    save_file(other, bundle.file("item_vectors.safetensors"))
    with pytest.raises(InvalidBundle, match="another user_vector than its golden output"):
        check_tower(bundle, tower_of(bundle))


@pytest.mark.parametrize(
    "content", [b"", b"\x09", bytes(7) + b"\x7f{}", b"\x02" + bytes(7) + b"[]", b"\x03" + bytes(7) + b"{} "]
)
def test_arrays_of_a_broken_file_are_refused(tmp_path: Path, content: bytes) -> None:
    bundle = write_tiny_bundle(tmp_path)
    bundle.file("item_vectors.safetensors").write_bytes(content)
    with pytest.raises(InvalidBundle, match="not a safetensors file"):
        bundle.arrays("item_vectors.safetensors")


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (write_tiny_bundle(tmp_path / name).manifest for name in ("a", "b"))
    assert first.files == second.files
