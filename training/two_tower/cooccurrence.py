"""Item neighbours by co-occurrence, filled up by vectors; popularity with decay."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys.contracts.types import MS_PER_DAY
from recsys.recall.nearest import nearest
from training.two_tower.sequences import History


def interactions(histories: Sequence[History], n_items: int) -> sparse.csr_matrix:
    """(n_users, n_items) float32, 1 where the user has the item in the history."""
    users = np.repeat(np.arange(len(histories)), [len(h.numbers) for h in histories])
    items = np.concatenate([h.numbers for h in histories]) - 1 if histories else np.empty(0, np.int64)
    seen = sparse.csr_matrix((np.ones(len(users), np.float32), (users, items)), (len(histories), n_items))
    seen.data[:] = 1  # repeated items were summed
    return seen


def item_neighbours(
    seen: sparse.csr_matrix, m: int, shrink: float = 10.0, pairs: int = 10_000_000
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The m items most similar to each item: cosine of their user columns, shrunk where few users have both. Ties
    are in the order of the rows, so that the result is the same everywhere.

    similarity(i, j) = c_ij / (sqrt(c_i · c_j) + shrink), c_ij: users who have both (Sarwar et al., 2001).

    Args:
        seen: (n_users, n_items) of 0 and 1.
        m: neighbours per item.
        pairs: of items that are in memory at a time, about.

    Returns:
        neighbours (n_items, m) int32 item rows, best first, -1 for none; similarities (n_items, m) float32.
    """
    n_items = seen.shape[1]
    neighbours = np.full((n_items, m), -1, np.int32)
    scores = np.zeros((n_items, m), np.float32)
    counts = np.sqrt(np.asarray(seen.sum(0)).ravel())
    columns = seen.T.tocsr()
    most = np.minimum(columns @ np.diff(seen.indptr), n_items)  # pairs of each item, at the most
    block = np.cumsum(most) // pairs
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    for start, end in zip(starts, [*starts[1:], n_items], strict=True):
        both = columns[start:end] @ seen
        both.sort_indices()
        item, other = np.repeat(np.arange(start, end), np.diff(both.indptr)), both.indices
        similar = both.data / (counts[item] * counts[other] + shrink)
        similar[item == other] = 0
        for row, (first, last) in enumerate(pairwise(both.indptr), int(start)):
            best = np.argsort(-similar[first:last], kind="stable")[:m] + first
            best = best[similar[best] > 0]
            neighbours[row, : len(best)], scores[row, : len(best)] = other[best], similar[best]
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
    short = np.flatnonzero(neighbours[:, -1] < 0).astype(np.int32)
    near, cosines = nearest(vectors, min(2 * m, max(n - 1, 0)), short)[
        ::-1
    ]  # its m neighbours may come first
    for start in range(0, len(short), 1024):
        part = slice(start, start + 1024)
        rows = short[part]
        known = (neighbours[rows] >= 0).sum(axis=1)  # they come first in each row
        new = (near[part] >= 0) & ~(near[part, :, None] == neighbours[rows, None, :]).any(axis=2)
        place = known[:, None] + np.cumsum(new, axis=1) - 1
        line, at = np.nonzero(new & (place < m))
        lowest = scores[rows, np.maximum(known - 1, 0)]
        floor = np.where(known > 0, lowest, np.float32(least))[line] / 2
        neighbours[rows[line], place[line, at]] = near[part][line, at]
        scores[rows[line], place[line, at]] = floor * np.maximum(cosines[part][line, at], 0)
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
