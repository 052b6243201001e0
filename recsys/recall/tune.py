"""Choose an index: build each kind, search with growing effort, compare with exact search.

Times are CPU times of one thread and one query at a time, so waiting on a busy machine does not count. Exact search and
the index alternate query by query, so that both see the same caches and clock rates.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.index_kind import Kind
from recsys.recall.rescored import RescoredIndex
from recsys.recall.vector_index import VectorIndex

Floats = NDArray[np.float32]

K = 500
EFFORTS = {
    Kind.HNSW: (512, 1024, 2048),
    **dict.fromkeys((Kind.IVF_FLAT, Kind.IVF_SQ8, Kind.IVF_PQ, Kind.IVF_RABITQ), (16, 32, 64, 128, 256, 512)),
}


@dataclass(frozen=True)
class Measured:
    """One index with one effort.

    rescored: by the float vectors. bytes_per_vector: of the index itself. exact_ms: of exact search.
    """

    config: IndexConfig
    rescored: bool
    build_s: float
    bytes_per_vector: float
    ms: float
    exact_ms: float
    recall: float

    @property
    def speedup(self) -> float:
        return self.exact_ms / self.ms

    @property
    def label(self) -> str:
        return f"{self.config.kind}{' rescored' if self.rescored else ''}"


def candidates(n: int) -> list[IndexConfig]:
    """Every kind, with the number of lists that FAISS recommends for n items; IVF-SQ8 also with twice that."""
    lists = 1 << round(np.log2(4 * np.sqrt(n)))
    return [
        IndexConfig(kind, lists=count)
        for kind in Kind
        for count in ((lists, 2 * lists) if kind is Kind.IVF_SQ8 else (lists,))
    ]


def measure(
    items: Floats, queries: Floats, configs: Sequence[IndexConfig], k: int = K, rescored: bool = True
) -> Iterator[Measured]:
    """Every config with every effort of its kind; compressed kinds also `rescored`."""
    exact = AnnIndex.build(items, IndexConfig(Kind.FLAT))
    truth = [exact.search(query[None], k).of(0) for query in queries]
    for config in configs:
        began = time.thread_time()
        index = AnnIndex.build(items, config)
        build_s = time.thread_time() - began
        size = _bytes(index) / max(len(items), 1)
        forms: list[tuple[bool, VectorIndex]] = [(False, index)]
        if rescored and config.kind in (Kind.SQ8, Kind.IVF_SQ8, Kind.IVF_PQ, Kind.IVF_RABITQ):
            forms.append((True, RescoredIndex(index, lambda rows: items.take(rows, axis=0))))
        for effort in EFFORTS.get(config.kind, (0,)):
            if effort:
                index.set_effort(effort)
            for is_rescored, form in forms:
                ms, exact_ms, recall = _search(form, exact, queries, truth, k)
                yield Measured(
                    replace(config, effort=effort), is_rescored, build_s, size, ms, exact_ms, recall
                )


def pick(found: Sequence[Measured], recall: float, bytes_per_vector: float = np.inf) -> Measured | None:
    """The fastest with enough recall that is small enough; None: there is none."""
    good = [m for m in found if m.recall >= recall and m.bytes_per_vector <= bytes_per_vector]
    return max(good, key=lambda m: m.speedup, default=None)


def _search(
    index: VectorIndex, exact: VectorIndex, queries: Floats, truth: Sequence[NDArray[np.int32]], k: int
) -> tuple[float, float, float]:
    """Median milliseconds of the index and of exact search; mean recall@k."""
    times, exact_times, recalls = [], [], []
    for query, wanted in zip(queries, truth, strict=True):
        began = time.thread_time()
        exact.search(query[None], k)
        between = time.thread_time()
        rows = index.search(query[None], k).of(0)
        times.append(time.thread_time() - between)
        exact_times.append(between - began)
        recalls.append(len(np.intersect1d(rows, wanted)) / max(len(wanted), 1))
    return float(np.median(times)) * 1e3, float(np.median(exact_times)) * 1e3, float(np.mean(recalls))


def _bytes(index: AnnIndex) -> int:
    """Its size as a file, which is close to its size in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.faiss"
        index.save(path)
        return path.stat().st_size
