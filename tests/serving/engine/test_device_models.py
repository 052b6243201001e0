"""From which earlier models there are deltas."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from recsys.bundle import FILES, OPTIONAL, Bundle, open_bundle, write_bundle
from recsys.ranking.edge import EDGE
from serving.engine.device_models import DeviceModel
from tests.recsys.test_bundle import manifest

SIZE = 4_000


def content(seed: int) -> bytes:
    """A model that has changed a little since the one before."""
    changes = np.random.default_rng(seed).integers(0, 4, SIZE)
    return (np.random.default_rng(0).integers(0, 256, SIZE) + changes).astype(np.uint8).tobytes()


def publish(bundles: Path, version: str, created_ms: int, model: bytes | None) -> Bundle:
    with write_bundle(bundles, replace(manifest(version), created_ms=created_ms)) as folder:
        for name in FILES.keys() - OPTIONAL:
            (folder / name).write_bytes(b"content")
        if model is not None:
            (folder / EDGE).write_bytes(model)
    return open_bundle(bundles / version)


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    for night in range(6):
        publish(tmp_path, f"v{night}", night, content(night))
    return tmp_path


def bases(bundles: Path, version: str) -> set[str]:
    return {*DeviceModel(open_bundle(bundles / version), bundles).deltas}


def digests(*nights: int) -> set[str]:
    return {sha256(content(night)).hexdigest() for night in nights}


def test_there_are_deltas_from_the_last_three_models(bundles: Path) -> None:
    assert bases(bundles, "v5") == digests(2, 3, 4)
    assert bases(bundles, "v1") == digests(0)  # after a rollback: not from newer ones
    assert bases(bundles, "v0") == set()


def test_bundles_without_a_model_with_the_same_or_a_damaged_one_are_passed_over(bundles: Path) -> None:
    publish(bundles, "none", 6, None)
    publish(bundles, "same", 7, content(8))
    (bundles / "v4" / EDGE).write_bytes(b"damaged")
    (bundles / "v3" / "manifest.json").write_text("{}")
    publish(bundles, "new", 8, content(8))
    assert bases(bundles, "new") == digests(5, 2, 1)


def test_a_model_that_is_another_one_altogether_is_downloaded_whole(bundles: Path) -> None:
    publish(bundles, "new", 9, np.random.default_rng(99).bytes(SIZE))
    assert bases(bundles, "new") == set()


def test_a_model_of_another_length_is_downloaded_whole(bundles: Path) -> None:
    publish(bundles, "new", 9, content(9) + b"longer")  # as a device adds bytes
    assert bases(bundles, "new") == set()
