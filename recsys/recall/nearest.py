"""The nearest items of every item, for tables that are built once: one matrix product for a whole cluster of items
instead of one search for each.

Up to `EXACT_UP_TO` items the result is exact. Beyond, an item is compared with the members of the clusters nearest to
its own, as in an inverted-list index whose queries come sorted by list.
"""

from collections.abc import Iterator

import faiss
import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Rows
from recsys.cores import cores
from recsys.recall.ann import EXACT_UP_TO
from recsys.recall.vector_index import NO_ROW, Found

COMPARED = 4_096  # items that an item is compared with, about; `recsys bench neighbours` says what that finds
_SAMPLES = 64  # vectors per cluster that the clustering sees
_ROUNDS = 8
_ROWS = 1_024  # of queries at a time
_CROWD = 16  # times as many, at the most: equal vectors, as of items that nobody has seen, are one cluster


def nearest(
    vectors: NDArray[np.float32], m: int, rows: Rows | None = None, compared: int = COMPARED, seed: int = 0
) -> Found:
    """The m other items with the largest inner product with each item, on all cores.

    Args:
        vectors: (n, d) float32 of length 1.
        rows: (k,) int32, the items to do it for; None: all.
        compared: with how many items each is compared, about; in a small table with all.
        seed: of the clustering.

    Returns:
        (k, m), best first; `NO_ROW` where there are no more, or where the clusters that were compared have too few.
    """
    n = len(vectors)
    asked = np.arange(n, dtype=np.int32) if rows is None else np.asarray(rows, np.int32)
    found = Found(np.full((len(asked), m), -np.inf, np.float32), np.full((len(asked), m), NO_ROW, np.int32))
    vectors = np.ascontiguousarray(vectors, np.float32)
    faiss.omp_set_num_threads(cores())  # of this thread; a search sets it to one
    for places, members in _groups(vectors, asked, compared, seed):
        queries = asked[places]
        keep = min(m + 1, len(members))  # the item itself is among them
        scores, at = faiss.knn(vectors[queries], vectors[members], keep, metric=faiss.METRIC_INNER_PRODUCT)
        _put(found, places, queries, members[at], scores)
    return found


def _put(
    found: Found, places: NDArray[np.intp], queries: Rows, rows: Rows, scores: NDArray[np.float32]
) -> None:
    """Without the item itself, which need not be its own nearest: then the last one goes."""
    own = rows == queries[:, None]
    own[~own.any(axis=1), -1] = True
    kept = rows.shape[1] - 1
    found.rows[places, :kept] = rows[~own].reshape(len(places), kept)
    found.scores[places, :kept] = scores[~own].reshape(len(places), kept)


def _groups(
    vectors: NDArray[np.float32], asked: Rows, compared: int, seed: int
) -> Iterator[tuple[NDArray[np.intp], Rows]]:
    """Places in `asked`, and the rows that they are compared with."""
    n, dimension = vectors.shape
    if n <= EXACT_UP_TO:
        every = np.arange(n, dtype=np.int32)
        for start in range(0, len(asked), _ROWS):
            yield np.arange(start, min(start + _ROWS, len(asked))), every
        return
    clusters = 1 << round(np.log2(4 * np.sqrt(n)))
    found = faiss.Kmeans(
        dimension,
        clusters,
        niter=_ROUNDS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=_SAMPLES,
    )
    found.train(vectors)
    of = found.index.search(vectors, 1)[1][:, 0]  # the cluster of each row
    order = np.argsort(of, kind="stable").astype(np.int32)
    starts = np.searchsorted(of[order], np.arange(clusters + 1))
    probes = min(max(1, round(compared * clusters / n)), clusters)
    centroids = np.asarray(found.centroids)
    _, near = faiss.knn(centroids, centroids, probes, metric=faiss.METRIC_L2)
    by_cluster = np.argsort(of[asked], kind="stable")
    ends = np.searchsorted(of[asked][by_cluster], np.arange(clusters + 1))
    for cluster in np.flatnonzero(np.diff(ends)):
        members = np.concatenate([order[starts[c] : starts[c + 1]] for c in near[cluster]])
        yield (
            by_cluster[ends[cluster] : ends[cluster + 1]],
            members[:: -(-len(members) // (_CROWD * compared))],
        )
