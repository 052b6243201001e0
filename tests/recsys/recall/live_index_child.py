"""A process that changes a persisted index until it is killed; prints the number of each change that was accepted.

python -m tests.recsys.recall.live_index_child FOLDER FIRST
"""

import itertools
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.recall.live_index import LiveIndex
from recsys.recall.snapshots import Base

N, D = 400, 8
REBUILD_AT = 60


def change(number: int) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
    """The rows of a change and their vectors; None: they are removed. The same for the same number."""
    random = np.random.default_rng(number)
    rows = random.choice(2 * N, 3, replace=False).astype(np.int32)
    return rows, random.standard_normal((3, D), np.float32) if number % 3 else None


def expected(changes: int) -> dict[int, NDArray[np.float32]]:
    """Row → vector after N changes."""
    items = dict(enumerate(np.random.default_rng(0).standard_normal((N, D), np.float32)))
    for number in range(1, changes + 1):
        rows, vectors = change(number)
        for place, row in enumerate(rows.tolist()):
            if vectors is None:
                items.pop(row, None)
            else:
                items[row] = vectors[place]
    return items


def apply(index: LiveIndex, number: int) -> None:
    rows, vectors = change(number)
    if vectors is None:
        index.remove(rows)
    else:
        index.upsert(rows, vectors)


def begin(folder: Path) -> LiveIndex:
    return LiveIndex.create(folder, Base.build(np.array(list(expected(0).values()))), rebuild_at=REBUILD_AT)


if __name__ == "__main__":
    index = LiveIndex.open(Path(sys.argv[1]), rebuild_at=REBUILD_AT)
    for number in itertools.count(int(sys.argv[2])):
        apply(index, number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
