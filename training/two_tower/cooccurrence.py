"""Item neighbours by co-occurrence, filled up by vectors; popularity with decay."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys.contracts.types import MS_PER_DAY
from recsys.recall.ann import AnnIndex
from training.two_tower.sequences import History


def interactions(histories: Sequence[History], n_items: int) -> sparse.csr_matrix:
    """(n_users, n_items) float32, 1 where the user has the item in the history."""
    users = np.repeat(np.arange(len(histories)), [len(h.numbers) for h in histories])
    items = np.concatenate([h.numbers for h in histories]) - 1 if histories else np.empty(0, np.int64)
    seen = sparse.csr_matrix((np.ones(len(users), np.float32), (users, items)), (len(histories), n_items))
    seen.data[:] = 1  # repeated items were summed
    return seen


def item_neighbours(
    seen: sparse.csr_matrix, m: int, shrink: float = 10.0, rows: int = 1024
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The m items most similar to each item: cosine of their user columns, shrunk where few users have both.

    similarity(i, j) = c_ij / (sqrt(c_i · c_j) + shrink), c_ij: users who have both (Sarwar et al., 2001).

    Args:
        seen: (n_users, n_items) of 0 and 1.
        m: neighbours per item.
        rows: items per block of similarities in memory.

    Returns:
        neighbours (n_items, m) int32 item rows, best first, -1 for none; similarities (n_items, m) float32.
    """
    n_items = seen.shape[1]
    neighbours = np.full((n_items, m), -1, np.int32)
    scores = np.zeros((n_items, m), np.float32)
    counts = np.sqrt(np.asarray(seen.sum(0)).ravel())
    columns = seen.T.tocsr()
    for start in range(0, n_items, rows):
        both = (columns[start : start + rows] @ seen).toarray()
        both /= counts[start : start + rows, None] * counts[None, :] + shrink
        both[np.arange(len(both)), np.arange(start, start + len(both))] = 0
        keep = min(m, n_items - 1)
        # a stable sort orders ties by row number, so that the result is the same everywhere
        best = np.argsort(-both, axis=1, kind="stable")[:, :keep]
        values = np.take_along_axis(both, best, axis=1)
        neighbours[start : start + rows, :keep] = np.where(values > 0, best, -1)
        scores[start : start + rows, :keep] = values
    return neighbours, scores


def filled_up(
    neighbours: NDArray[np.int32], scores: NDArray[np.float32], vectors: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Fill empty places of `item_neighbours` with the items of the nearest vectors, so that rare items have neighbours.

    Args:
        vectors: (n_items, d) float32 of length 1.

    Returns:
        Copies. A cosine c scores max(c, 0) / 2 of the item's lowest score, or of the table's where it has none.
    """
    neighbours, scores = neighbours.copy(), scores.copy()
    n, m = neighbours.shape
    least = float(scores[scores > 0].min(initial=1.0))
    index = AnnIndex.build(vectors)
    short = np.flatnonzero((neighbours < 0).any(axis=1))
    for start in range(0, len(short), 1024):
        rows = short[start : start + 1024]
        found = index.search(vectors[rows], min(2 * m + 1, n))  # the item and its m neighbours may come first
        for row, near, cosines in zip(rows, found.rows, found.scores, strict=True):
            known = neighbours[row] >= 0
            new = (near >= 0) & (near != row) & ~np.isin(near, neighbours[row, known])
            size = min(int(new.sum()), int((~known).sum()))
            places = np.flatnonzero(~known)[:size]
            floor = scores[row, known].min() if known.any() else least
            neighbours[row, places] = near[new][:size]
            scores[row, places] = floor / 2 * np.maximum(cosines[new][:size], 0)
    return neighbours, scores


def popularity(
    histories: Iterable[History], n_items: int, half_life_days: float | None = None
) -> NDArray[np.float64]:
    """(n_items,) users per item, each once a day; with a half-life, one that long before the newest counts half."""
    scores = np.zeros(n_items)
    histories = list(histories)
    newest = max((int(h.times[-1]) for h in histories if len(h.times)), default=0)
    for history in histories:
        days = history.times // MS_PER_DAY
        _, first = np.unique(np.stack((history.numbers, days)), axis=1, return_index=True)
        weight = np.ones(len(first))
        if half_life_days is not None and newest > 0:
            weight = 0.5 ** ((newest - history.times[first]) / (half_life_days * MS_PER_DAY))
        np.add.at(scores, history.numbers[first] - 1, weight)
    return scores
