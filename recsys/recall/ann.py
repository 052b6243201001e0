"""Nearest neighbours by inner product. Only this file and `nearest` import FAISS.

The default kind follows from measurements (`recsys index tune`, docs/recall-index.md): exact search while that is fast
enough, then inverted lists with 8-bit codes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from recsys.contracts.eligible import Eligible
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.contracts.request import Rows
from recsys.recall.index_kind import Kind
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.vector_index import NO_ROW, Found, check_queries, nothing

EXACT_UP_TO = 20_000  # items; exact search takes half a millisecond there
HNSW_LINKS, HNSW_BUILD_EFFORT = 32, 80  # neighbours per node; candidates while the graph is built
REFINE = 6.0  # times k results of the short codes that 8-bit codes rescore
LEAST = 1_000  # vectors for anything but exact search: FAISS needs 39 per cluster


@dataclass(frozen=True)
class IndexConfig:
    """How to index. 0: by the number of items."""

    kind: Kind = Kind.FLAT
    lists: int = 0  # inverted lists
    effort: int = 0  # see `Kind`
    seed: int = 0  # of the clustering
    shards: int = 1  # parts that one search scans in parallel, one thread each; such an index cannot be saved


def choose(n: int) -> IndexConfig:
    """The default for n items."""
    return IndexConfig(Kind.FLAT if n <= EXACT_UP_TO else Kind.IVF_SQ8)


def chosen_for(items: ItemVectors) -> IndexConfig:
    """`choose`, but exact search for a linear part: its vectors are a hundred times as long for popular items as for
    most, which 8-bit codes and clusters do not hold (of 30,000 items, .77 of the ten nearest were found; no command
    repeats it)."""
    return choose(len(items)) if items.linear is None else IndexConfig(Kind.FLAT)


class AnnIndex:
    """A FAISS index over rows of the item table. Immutable and thread-safe once built.

    A search uses one thread, which maximises requests per second.
    """

    def __init__(self, index: Any, parts: Sequence["AnnIndex"] = (), resources: Any = None) -> None:
        """
        Args:
            parts, resources: what a sharded or a GPU index borrows, so they must live as long.
        """
        self._index = index
        self._parts = parts
        self._resources = resources

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        config: IndexConfig | None = None,
        rows: Rows | None = None,
    ) -> Self:
        """
        Args:
            vectors: (n, d) float32.
            config: None: `choose(n)`.
            rows: (n,) int32 row of each vector; None: 0 … n - 1.

        Raises:
            ValueError: the vectors are not (n, d), or a value is not finite.
        """
        if vectors.ndim != 2 or not vectors.shape[1]:
            raise ValueError(f"vectors: (n, d) float32 is needed, got shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("vectors: NaN or infinity among them; train the two-tower again")
        config = config or choose(len(vectors))
        if config.shards > 1:
            return cls._sharded(vectors, config, rows)
        vectors = np.ascontiguousarray(vectors, np.float32)
        faiss.omp_set_num_threads(1)
        index = _empty(len(vectors), vectors.shape[1], config)
        if len(vectors):
            index.train(vectors)
            if rows is None:
                index.add(vectors)
            else:
                index = index if isinstance(index, faiss.IndexIVF) else faiss.IndexIDMap(index)
                index.add_with_ids(vectors, np.ascontiguousarray(rows, np.int64))
        return cls(index)

    @classmethod
    def _sharded(cls, vectors: NDArray[np.float32], config: IndexConfig, rows: Rows | None) -> Self:
        """One index per part, joined by FAISS's `IndexShards`."""
        rows = np.arange(len(vectors), dtype=np.int32) if rows is None else rows
        shards_of: Any = faiss.IndexShards  # its stubs declare one argument
        index = shards_of(vectors.shape[1], True, False)  # in threads, with the ids of the parts
        parts = [
            cls.build(vectors[part], replace(config, shards=1), rows[part])
            for part in np.array_split(np.arange(len(vectors)), config.shards)
        ]
        for each in parts:
            index.add_shard(each._index)
        return cls(index, parts)

    @classmethod
    def load(cls, path: Path) -> Self:
        """
        Raises:
            InvalidBundle: the file is missing, or is not a FAISS index of inner products.
        """
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise InvalidBundle(f"{path}: not a FAISS index ({str(error).splitlines()[0]})") from error
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise InvalidBundle(f"{path}: not an inner-product index; publish the bundle again")
        return cls(index)

    def save(self, path: Path) -> None:
        """Raises `InvalidConfig` for a sharded index."""
        if self._parts:
            raise InvalidConfig("a sharded index cannot be saved; build it again from the vectors")
        faiss.write_index(self._index, str(path))

    def to_gpu(self, device: int = 0) -> "AnnIndex":
        """A copy on a GPU, for Flat and IVF kinds.

        Raises:
            InvalidConfig: FAISS has no GPU support, finds no such device, or cannot move this kind.
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
        return AnnIndex(moved, resources=resources)

    @property
    def compressed(self) -> bool:
        """Whether scores come from codes instead of the vectors."""
        if self._parts:
            return any(part.compressed for part in self._parts)
        inside = _inside(self._index)
        return not isinstance(inside, (faiss.IndexFlat, faiss.IndexHNSWFlat, faiss.IndexIVFFlat))

    @property
    def selects(self) -> bool:
        """Whether `search` finds eligible rows alone: FAISS joins shards without passing a selection on."""
        return not self._parts

    def set_effort(self, effort: int) -> None:
        """Set the effort of searches (see `Kind`). For tuning and loading: not safe during a search."""
        for part in self._parts:
            part.set_effort(effort)
        if not self._parts:
            _set_effort(self._index, effort)

    @property
    def dimension(self) -> int:
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, queries: NDArray[np.float32], k: int, eligible: Eligible | None = None) -> Found:
        """See `SelectiveIndex.search`; ineligible rows are found as well where the index does not `selects`."""
        queries = check_queries(queries, k, self.dimension)
        k = min(k, len(self))
        if not k or not len(queries) or (eligible is not None and not eligible.count):
            return nothing(len(queries))
        # OpenMP holds this number per calling thread; a new thread would use all cores
        faiss.omp_set_num_threads(1)
        if eligible is None or not self.selects:
            return _found(*self._index.search(queries, k))
        found = _found(*self._index.search(queries, k, params=_selecting(self._index, eligible)))
        last = found.rows[:, min(k, eligible.count) - 1]
        if (last == NO_ROW).any():  # too few in the lists that were visited
            every = _selecting(self._index, eligible, exhaustive=True)
            found = _found(*self._index.search(queries, k, params=every))
        return found


def _found(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> Found:
    scores[ids == NO_ROW] = -np.inf
    return Found(scores, ids.astype(np.int32))


def _selecting(index: Any, eligible: Eligible, exhaustive: bool = False) -> Any:
    """Parameters of a search among the eligible rows. What is nearest among few is spread over more lists, over even
    more where the rows near the query are not eligible: with half of the rows it visits four times as many lists, and
    compares twice as many vectors as a search among all."""
    made: Any = faiss  # its stubs have no keyword arguments
    selector = made.IDSelectorBitmap(eligible.bits)
    inside = _inside(index)
    share = 1e-9 if exhaustive else max(eligible.share, 1e-9)
    lists = faiss.try_extract_index_ivf(inside)
    if isinstance(inside, faiss.IndexHNSW):
        effort = min(len(eligible.mask), math.ceil(inside.hnsw.efSearch / share))
        return made.SearchParametersHNSW(sel=selector, efSearch=effort)
    if lists is None:
        return made.SearchParameters(sel=selector)
    visited = min(lists.nlist, math.ceil(lists.nprobe / share**2))
    params = made.SearchParametersIVF(sel=selector, nprobe=visited)
    if isinstance(inside, faiss.IndexRefine):
        return made.IndexRefineSearchParameters(k_factor=inside.k_factor, base_index_params=params)
    return params


def _empty(n: int, dimension: int, config: IndexConfig) -> Any:
    """An untrained index for n vectors; exact for fewer than `LEAST`."""
    lists = config.lists or 1 << max(0, round(np.log2(4 * np.sqrt(max(n, 1)))))
    lists = max(1, min(lists, n // 39))
    factory = {
        Kind.FLAT: "Flat",
        Kind.SQ8: "SQ8",
        Kind.HNSW: f"HNSW{HNSW_LINKS},Flat",
        Kind.IVF_FLAT: f"IVF{lists},Flat",
        Kind.IVF_SQ8: f"IVF{lists},SQ8",
        Kind.IVF_PQ: f"IVF{lists},PQ{dimension // 2}x4fs,Refine(SQ8)",
        Kind.IVF_RABITQ: f"IVF{lists},RaBitQ,Refine(SQ8)",
    }[config.kind if n >= LEAST else Kind.FLAT]
    index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexHNSW):
        index.hnsw.efConstruction = HNSW_BUILD_EFFORT
    if isinstance(index, faiss.IndexIVFScalarQuantizer):
        # the codes' range leaves out a thousandth at each end: outliers would cost all vectors precision
        index.sq.rangestat, index.sq.rangestat_arg = faiss.ScalarQuantizer.RS_quantiles, 0.001
    if isinstance(index, faiss.IndexRefine):
        index.k_factor = REFINE
    lists_inside = faiss.try_extract_index_ivf(index)
    if lists_inside is not None:
        lists_inside.cp.seed = config.seed
        lists_inside.cp.max_points_per_centroid = (
            64  # four times as fast as FAISS's 256, with the same recall
        )
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
