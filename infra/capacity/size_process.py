"""Predict the resident memory of an API process by catalogue size, from two processes that really hold one.

python -m infra.capacity.size_process 12000 64    # bytes with 12,000 items, whose vectors have a linear part of rank 64
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from infra.evaluation.load.traffic import iterate_synthetic_items
from recsys.contracts.errors import Unavailable
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue
from recsys.recall.ann import AnnIndex, chosen_for
from recsys.recall.item_vectors import ItemVectors, LinearPart
from recsys.recall.live_index import LiveIndex
from recsys.recall.snapshots import Base
from serving.api import app
from training.choices import linear_rank

DIMENSION = 64  # of the tower's item vectors
SAMPLES = (2_000, 12_000)
_NOW_MS = 1_700_000_000_000


def predict(items: int, samples: tuple[int, int] = SAMPLES) -> float:
    """Bytes with that many items: a straight line through the two samples, with the linear part that training gives a
    catalogue of `items` by default."""
    low, high = (measure(n, linear_rank(items)) for n in samples)
    return high + (items - samples[1]) * (high - low) / (samples[1] - samples[0])


def measure(items: int, rank: int) -> float:
    """Bytes of a new process that holds that many items, with a linear part of that rank (0: none).

    Raises:
        Unavailable: it failed; its last line says why.
    """
    command = [sys.executable, "-m", "infra.capacity.size_process", str(items), str(rank)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise Unavailable(f"measuring the memory of {items} items failed: {done.stderr.strip()[-200:]}")
    return float(done.stdout)


def resident_with(n: int, rank: int) -> int:
    """Bytes of this process once it holds the item side of a runtime: catalogue, features, vectors, index."""
    catalogue = Catalogue(iterate_synthetic_items(n, 0))
    vectors = _vectors(n, rank)
    index = AnnIndex.build(vectors.indexed, chosen_for(vectors))
    held = (
        app,  # with everything that the API imports
        columns := ItemColumns(catalogue.items, FEATURES),
        vectors,
        LiveIndex(Base(index, np.arange(n, dtype=np.int32), vectors.indexed), chosen_for(vectors)),
    )
    columns.refresh(_NOW_MS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    assert held and catalogue  # noqa: S101 - alive until here
    return pages * os.sysconf("SC_PAGE_SIZE")


def _vectors(n: int, rank: int) -> ItemVectors:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, DIMENSION), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    parts = [rng.standard_normal((n, rank), np.float32) for _ in range(2)]
    return ItemVectors(vectors, linear=LinearPart(*parts) if rank else None)


if __name__ == "__main__":
    print(resident_with(*map(int, sys.argv[1:])))  # noqa: T201 - read by `measure`
