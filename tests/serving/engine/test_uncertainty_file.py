"""What a bundle has learnt of its uncertainty reaches the places that explore, with live counts of impressions."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidBundle
from recsys.contracts.state import EntityState
from recsys.ranking.uncertainty import UNCERTAINTY, Uncertainty, write_uncertainty
from serving.engine.artifacts import LoadOptions, load_artifacts
from tests.bundles import write_tiny_bundle

LEARNT = Uncertainty(item_variance=0.25)
HALF = np.array([0.5, 0.5], np.float32)


def listed(bundle: Bundle) -> Bundle:
    """As if it had been published with the file."""
    return replace(
        bundle, manifest=replace(bundle.manifest, files={**bundle.manifest.files, UNCERTAINTY: ""})
    )


def test_only_a_published_file_is_read(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    write_uncertainty(bundle.path, LEARNT)
    assert load_artifacts(bundle, LoadOptions()).uncertainty is None


def test_a_damaged_file_refuses_the_bundle(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    (bundle.path / UNCERTAINTY).write_text('{"item_variance": -1}')
    with pytest.raises(InvalidBundle, match="item_variance"):
        load_artifacts(listed(bundle), LoadOptions())


def test_impressions_that_are_counted_live_bring_certainty(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    write_uncertainty(bundle.path, LEARNT)
    artifacts = load_artifacts(listed(bundle), LoadOptions())
    assert artifacts.uncertainty is not None
    rows, first = np.array([0, 1], np.int32), artifacts.catalogue.item(0).item_id
    assert artifacts.uncertainty.deviation(rows, HALF, 0).tolist() == [0.5, 0.5]
    artifacts.live.apply((), [(first, EntityState(cells=Counter({"shown": 48})))])
    assert artifacts.uncertainty.deviation(rows, HALF, 0).tolist() == [0.25, 0.5]
