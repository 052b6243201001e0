"""Nearest neighbours by inner product: FAISS, and the only file that imports it.

Which kind for how many items follows from measurements (`recsys index tune`, docs/recall-index.md): exact search
while that is fast enough, then inverted lists with 8-bit codes. FAISS's own `k > ntotal` and "fewer found than
asked" (id -1) become the `Found` of `vector_index`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.contracts.request import Rows
from recsys.recall.index_kind import Kind
from recsys.recall.vector_index import NO_ROW, Found, check_queries, nothing

EXACT_UP_TO = 20_000  # items; exact search takes half a millisecond there
LEAST = 1_000  # vectors for anything but exact search: FAISS wants 39 a cluster


@dataclass(frozen=True)
class IndexConfig:
    """One way to index. 0 lets the number of items decide."""

    kind: Kind = Kind.FLAT
    lists: int = 0  # inverted lists
    effort: int = 0  # see `Kind`
    links: int = 32  # neighbours a node of the graph
    build_effort: int = 80  # candidates kept while the graph is built
    refine: float = 6.0  # times k that the short codes pass on to the 8-bit ones
    seed: int = 0  # of the clustering
    shards: int = (
        1  # parts that one search goes through in parallel, a thread each; such an index is not saved
    )


def choose(n: int) -> IndexConfig:
    """The default for n items."""
    return IndexConfig(Kind.FLAT if n <= EXACT_UP_TO else Kind.IVF_SQ8)


class AnnIndex:
    """A FAISS index over rows of the item table. Immutable and thread-safe once built.

    `threads`: how many one search may use; 1 serves most requests a second.
    """

    def __init__(self, index: Any, threads: int = 1) -> None:
        self._index = index
        self._resources: Any = None  # a GPU index borrows these
        self._parts: Sequence[AnnIndex] = ()  # of a sharded index, which borrows them
        self.threads = threads

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        config: IndexConfig | None = None,
        rows: Rows | None = None,
        threads: int = 1,
    ) -> Self:
        """
        Args:
            vectors: (n, d) float32.
            config: None: `choose(n)`.
            rows: (n,) int32 row of each vector; None: 0 … n - 1.
            threads: of the build and of each later search.

        Raises:
            ValueError: the vectors are not (n, d), or some value is not finite.
        """
        if vectors.ndim != 2 or not vectors.shape[1]:
            raise ValueError(f"vectors: (n, d) float32 is needed, got shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("vectors: NaN or infinity among them; train the two-tower again")
        config = config or choose(len(vectors))
        if config.shards > 1:
            return cls._sharded(vectors, config, rows, threads)
        vectors = np.ascontiguousarray(vectors, np.float32)
        faiss.omp_set_num_threads(threads)
        index = _empty(len(vectors), vectors.shape[1], config)
        if len(vectors):
            index.train(vectors)
            if rows is None:
                index.add(vectors)
            else:
                index = index if isinstance(index, faiss.IndexIVF) else faiss.IndexIDMap(index)
                index.add_with_ids(vectors, np.ascontiguousarray(rows, np.int64))
        return cls(index, threads)

    @classmethod
    def _sharded(
        cls, vectors: NDArray[np.float32], config: IndexConfig, rows: Rows | None, threads: int
    ) -> Self:
        """An index of each part, joined by FAISS's `IndexShards`."""
        rows = np.arange(len(vectors), dtype=np.int32) if rows is None else rows
        shards_of: Any = faiss.IndexShards  # its stubs know one argument only
        index = shards_of(vectors.shape[1], True, False)  # with threads; ids are those of the parts
        parts = [
            cls.build(vectors[part], replace(config, shards=1), rows[part], threads)
            for part in np.array_split(np.arange(len(vectors)), config.shards)
        ]
        for each in parts:
            index.add_shard(each._index)
        found = cls(index, threads)
        found._parts = parts
        return found

    @classmethod
    def load(cls, path: Path, threads: int = 1) -> Self:
        """
        Raises:
            InvalidBundle: the file is missing or no FAISS index of inner products.
        """
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise InvalidBundle(f"{path}: no FAISS index ({str(error).splitlines()[0]})") from error
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise InvalidBundle(
                f"{path}: the index does not search by inner product; publish the bundle again"
            )
        return cls(index, threads)

    def save(self, path: Path) -> None:
        """Raises `InvalidConfig` for a sharded index."""
        if self._parts:
            raise InvalidConfig("a sharded index cannot be saved; build it again from the vectors")
        faiss.write_index(self._index, str(path))

    def to_gpu(self, device: int = 0) -> "AnnIndex":
        """A copy on a GPU, for Flat and IVF kinds. Put a `recsys.recall.gpu.BatchingIndex` before it.

        Raises:
            InvalidConfig: this FAISS has no GPU support, finds no such device, or cannot move this kind.
        """
        if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() <= device:
            raise InvalidConfig(
                f"FAISS {faiss.__version__} finds no GPU {device}: install the `gpu` extra on a CUDA machine,"
                " or use recsys.models.topk"
            )
        resources = faiss.StandardGpuResources()
        try:
            moved = faiss.index_cpu_to_gpu(resources, device, self._index)
        except RuntimeError as error:
            raise InvalidConfig(f"this kind of index cannot move to a GPU: {error}") from error
        copy = AnnIndex(moved, self.threads)
        copy._resources = resources
        return copy

    @property
    def compressed(self) -> bool:
        """Whether scores come from codes, not from the vectors themselves."""
        if self._parts:
            return any(part.compressed for part in self._parts)
        inside = _inside(self._index)
        return not isinstance(inside, (faiss.IndexFlat, faiss.IndexHNSWFlat, faiss.IndexIVFFlat))

    def set_effort(self, effort: int) -> None:
        """Search with this effort (see `Kind`) from now on. Not beside searches: it is for tuning and loading."""
        for part in self._parts:
            part.set_effort(effort)
        if not self._parts:
            _set_effort(self._index, effort)

    @property
    def dimension(self) -> int:
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        """See `VectorIndex.search`."""
        queries = check_queries(queries, k, self.dimension)
        k = min(k, len(self))
        if not k or not len(queries):
            return nothing(len(queries))
        # OpenMP keeps this number for each calling thread; a new thread would take all cores
        faiss.omp_set_num_threads(self.threads)
        scores, ids = self._index.search(queries, k)
        scores[ids == NO_ROW] = -np.inf
        return Found(scores, ids.astype(np.int32))


def _empty(n: int, dimension: int, config: IndexConfig) -> Any:
    """An untrained index for n vectors. So few that clustering makes no sense are searched exactly."""
    lists = config.lists or 1 << max(0, round(np.log2(4 * np.sqrt(max(n, 1)))))
    lists = max(1, min(lists, n // 39))
    factory = {
        Kind.FLAT: "Flat",
        Kind.SQ8: "SQ8",
        Kind.HNSW: f"HNSW{config.links},Flat",
        Kind.IVF_FLAT: f"IVF{lists},Flat",
        Kind.IVF_SQ8: f"IVF{lists},SQ8",
        Kind.IVF_PQ: f"IVF{lists},PQ{dimension // 2}x4fs,Refine(SQ8)",
        Kind.IVF_RABITQ: f"IVF{lists},RaBitQ,Refine(SQ8)",
    }[config.kind if n >= LEAST else Kind.FLAT]
    index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexHNSW):
        index.hnsw.efConstruction = config.build_effort
    if isinstance(index, faiss.IndexIVFScalarQuantizer):
        # of the codes' range leave out a thousandth at each end: outliers would cost everybody precision
        index.sq.rangestat, index.sq.rangestat_arg = faiss.ScalarQuantizer.RS_quantiles, 0.001
    if isinstance(index, faiss.IndexRefine):
        index.k_factor = config.refine
    lists_inside = faiss.try_extract_index_ivf(index)
    if lists_inside is not None:
        lists_inside.cp.seed = config.seed
        lists_inside.cp.max_points_per_centroid = 64  # four times as fast as FAISS's 256, and as good
    _set_effort(index, config.effort or (512 if config.kind is Kind.HNSW else max(8, lists // 8)))
    return index


def _inside(index: Any) -> Any:
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index


def _set_effort(index: Any, effort: int) -> None:
    inside = _inside(index)
    lists = faiss.try_extract_index_ivf(inside)
    if lists is not None:
        lists.nprobe = min(effort, lists.nlist)
    elif isinstance(inside, faiss.IndexHNSW):
        inside.hnsw.efSearch = effort
