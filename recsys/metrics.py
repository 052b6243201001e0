"""Offline metrics, each with its formula, its source and a worked example. Numpy only.

Retrieval metrics read *ranks*: the number of items that are placed before the one looked for, counted over the
full catalogue (sampled metrics mislead: Krichene & Rendle, 2020). Rank 0 is the first place.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]


# --- retrieval: one or several relevant items per case --------------------------------------------------------------

NO_ITEM = -1  # fills up the rows of cases with fewer relevant items


def ranks_of(scores: Floats, targets: Ints) -> NDArray[np.int64]:
    """How many items score higher than each target; equal scores are placed where they fall on average, rounded up.

    A model that gives every item the same score must not look good: its one target is placed in the middle, several
    are spread evenly. So no two targets of a case share a rank.

    Args:
        scores: (n, n_items); what may not be recommended is -inf.
        targets: (n,) or (n, T) columns of `scores`, each once; `NO_ITEM` behind the last.

    Returns:
        Of the shape of `targets`; `NO_ITEM` where there is none.

    >>> ranks_of(np.array([[.1, .9, .5], [1., 1., 1.]]), np.array([2, 0])).tolist()
    [1, 1]
    >>> ranks_of(np.array([[.1, .9, .5], [1., 1., 1.]]), np.array([[0, 1], [2, -1]])).tolist()
    [[2, 0], [1, -1]]
    """
    wanted = _columns(targets)
    own = np.where(wanted >= 0, np.take_along_axis(scores, np.maximum(wanted, 0), axis=1), np.inf)
    nth, of = _among_equals(own)
    ranks = np.full(wanted.shape, NO_ITEM, np.int64)
    for column in range(wanted.shape[1]):
        rows = np.flatnonzero(wanted[:, column] >= 0)
        theirs, mine = scores[rows] if len(rows) < len(scores) else scores, own[rows, column, None]
        higher, equal = (theirs > mine).sum(1), (theirs == mine).sum(1)  # with itself
        average = -(-(nth[rows, column] + 1) * (equal + 1) // (of[rows, column] + 1)) - 1
        ranks[rows, column] = higher + average
    return ranks.reshape(targets.shape)


def _among_equals(values: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each value of each row: how many equal ones are to its left, and how many there are in all. (n, T) each."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    at = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(values), 1), np.bool_)
    first = np.maximum.accumulate(np.where(np.hstack((edge, differs)), at, 0), axis=1)
    last = np.where(np.hstack((differs, edge)), at, values.shape[1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    nth, of = np.empty_like(order), np.empty_like(order)
    np.put_along_axis(nth, order, at - first, axis=1)
    np.put_along_axis(of, order, last - first + 1, axis=1)
    return nth, of


def hits(ranks: Ints, k: int) -> NDArray[np.float64]:
    """(n,): 1 for each case with at least one relevant item among the first k, else 0. Ranks as `ranks_of` gives."""
    return np.asarray(_found(ranks, k).any(axis=1), np.float64)


def recalls(ranks: Ints, k: int) -> NDArray[np.float64]:
    """(n,): share of each case's relevant items that are among the first k.

    The share is of all relevant items, also where there are more than k: then 1 is out of reach.

    >>> recalls(np.array([[0, 9], [4, -1]]), 5).tolist()
    [0.5, 1.0]
    """
    return np.asarray(_found(ranks, k).sum(axis=1) / _relevant(ranks))


def ndcgs(ranks: Ints, k: int) -> NDArray[np.float64]:
    """(n,): sum of 1 / log2(rank + 2) over the relevant items with rank < k, divided by the largest such sum that a
    list of k can have: that of ranks 0 … min(k, relevant) - 1 (Järvelin & Kekäläinen, 2002)."""
    gains = np.where(_found(ranks, k), 1 / np.log2(np.maximum(_columns(ranks), 0) + 2.0), 0.0).sum(axis=1)
    ideal = np.cumsum(1 / np.log2(np.arange(k) + 2.0))
    return np.asarray(gains / ideal[np.minimum(_relevant(ranks), k) - 1])


def reciprocal_ranks(ranks: Ints, k: int | None = None) -> NDArray[np.float64]:
    """(n,): 1 / (rank + 1) of each case's first relevant item, 0 if that is not among the first k (None: anywhere). Its
    mean is the mean reciprocal rank (Voorhees, 1999).

    >>> reciprocal_ranks(np.array([[4, 1], [3, -1]]), 2).tolist()
    [0.5, 0.0]
    """
    places = _columns(ranks)
    first = np.where(places >= 0, places, np.iinfo(np.int64).max).min(axis=1)
    return np.asarray(np.where(first < (np.inf if k is None else k), 1 / (first + 1.0), 0.0))


def _columns(ranks: Ints) -> Ints:
    """(n, T) of (n, T) or (n,)."""
    return ranks if ranks.ndim == 2 else ranks[:, None]


def _found(ranks: Ints, k: int) -> NDArray[np.bool_]:
    return np.asarray((_columns(ranks) >= 0) & (_columns(ranks) < k))


def _relevant(ranks: Ints) -> NDArray[np.int64]:
    """(n,): relevant items of each case; there is at least one."""
    return np.asarray((_columns(ranks) >= 0).sum(axis=1))


def hit_rate(ranks: Ints, k: int) -> float:
    """HR@k: share of cases with at least one relevant item among the first k. With one item per case it is Recall@k.

    >>> hit_rate(np.array([0, 9, 10]), 10)
    0.6666666666666666
    """
    return _mean(hits(ranks, k))


def ndcg(ranks: Ints, k: int) -> float:
    """NDCG@k, mean of `ndcgs`; with one relevant item, of 1 / log2(rank + 2) if rank < k, else 0.

    >>> ndcg(np.array([0, 2, 10]), 10)
    0.5
    """
    return _mean(ndcgs(ranks, k))


# --- what the lists are made of -------------------------------------------------------------------------------------


def coverage(lists: Ints, n_items: int) -> float:
    """Share of the catalogue that is in at least one list (Ge et al., 2010). -1 in a list is no item.

    >>> coverage(np.array([[0, 1], [1, -1]]), 4)
    0.5
    """
    return len(np.unique(lists[lists >= 0])) / n_items


def gini(lists: Ints, n_items: int) -> float:
    """Gini index of how often each item is recommended: 0 all alike, near 1 a few items take all.

    G = Σ_i (2 i - n - 1) x_i / (n Σ x), x ascending, i from 1 (Fleder & Hosanagar, 2009).

    >>> gini(np.array([[0, 1], [2, 3]]), 4), gini(np.array([[0], [0]]), 4)
    (0.0, 0.75)
    """
    counts = np.sort(np.bincount(lists[lists >= 0].ravel(), minlength=n_items))
    if counts.sum() == 0:
        return float("nan")
    at = np.arange(1, n_items + 1)
    return float(((2 * at - n_items - 1) * counts).sum() / (n_items * counts.sum()))


def popularity_bias(lists: Ints, popularity: Floats) -> float:
    """Average recommendation popularity (Abdollahpouri et al., 2019): mean over the lists of their items' popularity.

    In multiples of the catalogue's mean, so 1.0 means no preference for the popular.

    >>> popularity_bias(np.array([[0, 1], [0, 0]]), np.array([3., 1., 0., 0.]))
    2.5
    """
    shown = lists >= 0
    means = np.where(shown, popularity[lists], 0).sum(1) / np.maximum(shown.sum(1), 1)
    return float(means[shown.any(1)].mean() / popularity.mean())


def intra_list_diversity(lists: Ints, vectors: Floats) -> float:
    """Mean over the lists of the mean of 1 - cosine over the pairs of a list's items (Ziegler et al., 2005).

    >>> intra_list_diversity(np.array([[0, 1], [0, 0]]), np.array([[1., 0.], [0., 2.]]))
    0.5
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    diversities = []
    for items in lists:
        own = unit[items[items >= 0]]
        n = len(own)
        if n > 1:
            total = float(np.square(own.sum(0)).sum())  # all pairs, each with itself too
            itself = float(np.square(own).sum())
            diversities.append(1 - (total - itself) / (n * (n - 1)))
    return _mean(np.array(diversities))


# --- ranking: a label and a score a row -----------------------------------------------------------------------------


def auc(labels: Ints, scores: Floats) -> float:
    """Probability that a positive scores higher than a negative, ties half (Hanley & McNeil, 1982).

    From the rank sum (Mann & Whitney): (Σ ranks of positives - p (p + 1) / 2) / (p n). NaN with one class only.

    >>> auc(np.array([0, 1, 0, 1]), np.array([.1, .4, .4, .8]))
    0.875
    """
    positives = int(np.sum(labels > 0))
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    rank_sum = float(_average_ranks(scores)[labels > 0].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def gauc(labels: Ints, scores: Floats, groups: NDArray[np.generic]) -> float:
    """AUC within each user, weighted by impressions; users with one class only do not count (Zhou et al., 2018, DIN).

    >>> gauc(np.array([1, 0, 0, 1, 1]), np.array([.9, .1, .8, .3, .5]), np.array([1, 1, 2, 2, 3]))
    0.5
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, groups[order][1:] != groups[order][:-1]])
    total = weight = 0.0
    for rows in np.split(order, starts[1:]):
        value = auc(labels[rows], scores[rows])
        if not np.isnan(value):
            total += len(rows) * value
            weight += len(rows)
    return total / weight if weight else float("nan")


def list_ndcgs(
    labels: Ints, scores: Floats, lists: Ints, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """NDCG@k of each list that has two rows and a positive: Σ label / log2(rank + 2), over the best possible value.

    (Järvelin & Kekäläinen, 2002.) Rows with equal scores share the mean of their places' discounts, as if they were
    shuffled (McSherry & Najork, 2008).

    Args:
        labels, scores, lists: (n,) each; rows of one list have the same number.

    Returns:
        (m,) a row of each list, and (m,) its NDCG.

    >>> list_ndcgs(np.array([0, 0, 1, 1]), np.array([3., 2., 1., 5.]), np.array([7, 7, 7, 8]), 10)
    (array([0]), array([0.5]))
    """
    if not len(labels):
        return np.zeros(0, np.int64), np.zeros(0)
    order = np.lexsort((-scores, lists))
    positive, ordered = labels[order] > 0, scores[order]
    new_list = np.r_[True, lists[order][1:] != lists[order][:-1]]
    starts, ties = (
        np.flatnonzero(new_list),
        np.flatnonzero(new_list | np.r_[True, ordered[1:] != ordered[:-1]]),
    )
    sizes, tied = np.diff(starts, append=len(order)), np.diff(ties, append=len(order))
    ranks = np.arange(len(order)) - np.repeat(starts, sizes)
    discounts = np.where(ranks < k, 1 / np.log2(ranks + 2.0), 0.0)
    expected = np.repeat(np.add.reduceat(discounts, ties) / tied, tied)
    gains, positives = (
        np.add.reduceat(expected * positive, starts),
        np.add.reduceat(positive, starts, dtype=int),
    )
    best = np.cumsum(1 / np.log2(np.arange(k) + 2.0))[np.clip(positives, 1, k) - 1]
    kept = (sizes > 1) & (positives > 0)
    return order[starts[kept]].astype(np.int64), (gains / best)[kept]


def xauc(values: Floats, predictions: Floats, pairs: int = 1_000_000, seed: int = 0) -> float:
    """Share of pairs with different values that the predictions order alike, ties half (Zhan et al., 2022, D2Q).

    Exact for up to `pairs` pairs, else on that many random ones.

    >>> xauc(np.array([1., 2., 3.]), np.array([10., 30., 20.]))
    0.6666666666666666
    """
    n = len(values)
    if n * (n - 1) // 2 <= pairs:
        a, b = np.triu_indices(n, 1)
    else:
        a, b = np.random.default_rng(seed).integers(0, n, (2, pairs))
    differs = values[a] != values[b]
    a, b = a[differs], b[differs]
    agreement = np.sign(values[a] - values[b]) * np.sign(predictions[a] - predictions[b])
    return _mean((agreement + 1) / 2)


def calibration_error(labels: Ints, probabilities: Floats, bins: int = 20) -> float:
    """Expected calibration error over bins of equal size: Σ share · |mean label - mean probability|.

    (Naeini et al., 2015, with quantile bins; rows in the order of their probability.)

    >>> calibration_error(np.array([0, 1, 1, 1]), np.array([.2, .2, .9, .9]), bins=2)
    0.2
    """
    if not len(labels):
        return float("nan")
    order = np.argsort(probabilities, kind="stable")
    error = 0.0
    for rows in np.array_split(order, min(bins, len(order))):
        error += len(rows) * abs(float(labels[rows].mean()) - float(probabilities[rows].mean()))
    return round(error / len(order), 12)


def _average_ranks(scores: Floats) -> NDArray[np.float64]:
    """Ranks from 1, equal scores share their mean rank."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def _mean(values: NDArray[np.floating] | NDArray[np.bool_]) -> float:
    """The mean; NaN of nothing, without a warning."""
    return float(np.mean(values)) if len(values) else float("nan")
