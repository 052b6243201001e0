"""Fit the taste model (`recsys.ranking.taste`) on labelled lists.

1. How tastes differ between users: mean and covariance by expectation-maximisation over the users' latest tallies.
2. What they are worth: a logistic regression of the clicks in which each list sees the taste as of then, so it is
   judged by what came next. Whether an item was looked at is not known: expectation-maximisation over it, too, with
   the position's weight as the prior (the position-based model; Wang et al. 2018 fit it this way).
3. Where taste does not make the newest lists more likely, its weight is 0. That happens (KuaiRand: who has just clicked
   has fewer clicks left), and a fit that looks back would not notice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import Item
from recsys.features.aggregates import BUCKETS, CATEGORIES_PER_EVENT, LOOKS_AT, LOOKS_SCALE, category_buckets
from recsys.features.definitions import FEATURES
from recsys.features.tally import Tally
from recsys.ranking.taste import (
    LIMIT,
    REST,
    TASTE,
    Effects,
    Floats,
    Ints,
    Taste,
    TasteModel,
    by_category,
    category_codes,
    likelihood,
    of_candidates,
    posterior,
    well_conditioned,
    write_taste,
)
from training.ranker.dataset import TALLY, fragments

COLUMNS = ["user_id", "item_id", "request_id", "event_time_ms", "position", "click", "sampled", "features"]
COLUMNS += TALLY
CATEGORIES = 64  # the largest; beyond them the rest
NEWEST = 0.2  # share of the rows that judge
_LEAST_CLICKS = 200  # with fewer there is nothing to learn
_ROWS = 500_000
_USERS = 20_000  # drawn, for mean and covariance
_USERS_AT_ONCE = 2_000
_ROUNDS, _STEPS = 12, 25
_RIDGE = 1e-3
_GAIN = 1e-4  # of the log loss per row, below which a taste is noise


@dataclass(frozen=True)
class Fitted:
    """`loss` per row of the newest lists, without and with taste, from a fit on the others."""

    taste: Taste
    rows: int
    loss_without: float
    loss_with: float


def fit_taste(table: pa.Table, items: Sequence[Item], seed: int) -> Fitted | None:
    """Fit on example rows with the columns `COLUMNS`; None: there are too few clicks on shown items.

    Args:
        items: the item table.
        seed: of the draw of users, if there are many.
    """
    table = (
        table.filter(pc.invert(table["sampled"])).sort_by([("event_time_ms", "ascending")]).combine_chunks()
    )
    clicked = np.asarray(table["click"]).astype(np.float64)
    looked_at = looks(table["position"])
    if not min(clicked.sum(), (1 - clicked).sum()) >= _LEAST_CLICKS:
        return None
    of_items = ItemCategories(items)
    place = of_items.place(table["item_id"])
    categories = of_items.largest(place)
    codes = category_codes(categories)
    tally, owner = tallies(table)
    looked, clicks = by_category(tally, codes, len(categories))
    if not looked.any():
        return None
    prior = fit_prior(*(of[latest_of_users(table, owner, seed)] for of in (looked, clicks)))
    theta = posterior(*prior, looked, clicks)
    tastes = prior.base + of_candidates(theta, owner, codes[of_items.buckets[place]])

    effects = Effects(FEATURES)
    same = sameness(table["request_id"], of_items.main[place], np.asarray(table["position"]), looked_at)
    x = np.column_stack([effects.of(feature_matrix(table)), same, tastes])
    old = np.arange(len(x)) < int(len(x) * (1 - NEWEST))
    losses = []
    for columns in (slice(None, -1), slice(None)):
        weights = logistic(x[old][:, columns], clicked[old], looked_at[old])
        losses.append(log_loss(x[~old][:, columns] @ weights, clicked[~old], looked_at[~old]))
    helps = losses[0] - losses[1] > _GAIN and weights[-1] > 0
    weights = logistic(x if helps else x[:, :-1], clicked, looked_at)
    taste = Taste(
        categories=categories,
        base=prior.base,
        mean=prior.mean.tolist(),
        covariance=prior.covariance.tolist(),
        weights=dict(zip(effects.names, weights.tolist(), strict=False)),
        taste=float(weights[-1]) if helps else 0.0,
        sameness=min(0.0, float(weights[len(effects.names)])),
    )
    return Fitted(taste, len(x), *losses)


def learn_taste(examples: Path, items: Sequence[Item], share: float, seed: int) -> Fitted | None:
    """`fit_taste` on the oldest `share` of the examples, of these at most the newest `_ROWS`.

    Raises:
        InvalidData: there are no examples, or they were built before there were tallies.
    """
    table = pa.concat_tables(fragments(examples, COLUMNS)).sort_by([("event_time_ms", "ascending")])
    cut = int(len(table) * share)
    return fit_taste(table.slice(max(0, cut - _ROWS), min(cut, _ROWS)), items, seed)


def described(fitted: Fitted | None) -> dict[str, float] | None:
    """For `summary.json`."""
    if fitted is None:
        return None
    losses = {"loss_without": fitted.loss_without, "loss_with": fitted.loss_with}
    return {"rows": fitted.rows, "weight": fitted.taste.taste, "sameness": fitted.taste.sameness, **losses}


def keep_taste(taste: Taste | None, folder: Path) -> None:
    """Write it, or remove one that was there."""
    if taste is None:
        (folder / TASTE).unlink(missing_ok=True)
    else:
        write_taste(folder, taste)


class TasteOffsets:
    """`training.ranker.dataset.Offset` of a fitted taste."""

    def __init__(self, taste: Taste, items: Sequence[Item]) -> None:
        self._model, self._items = TasteModel(taste, FEATURES), ItemCategories(items)

    def __call__(self, table: pa.Table) -> NDArray[np.float32]:
        """(n,) float32."""
        tally, owner = tallies(table)
        buckets = self._items.buckets[self._items.place(table["item_id"])]
        return self._model.offsets(tally, owner, buckets, feature_matrix(table))


class Prior(NamedTuple):
    """How θ is distributed over users: (K,), (K, K); `base`: log odds of all clicks."""

    mean: Floats
    covariance: Floats
    base: float


class ItemCategories:
    """The categories of the items: `buckets` (n + 1, 4), `main` (n + 1,) codes; the last row is an unknown item's."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._ids = pa.array([item.item_id for item in items], pa.string())
        firsts = [item.categories[0] if item.categories else REST for item in items]
        self._names, codes = np.unique([*firsts, REST], return_inverse=True)
        self.main: Ints = codes.astype(np.int64)
        self.buckets = np.full((len(items) + 1, CATEGORIES_PER_EVENT), BUCKETS, np.int64)
        for row, item in enumerate(items):
            found = category_buckets(item.categories)
            self.buckets[row, : len(found)] = found

    def place(self, item_ids: pa.ChunkedArray) -> Ints:
        """The row of each id."""
        return np.asarray(pc.fill_null(pc.index_in(item_ids, value_set=self._ids), len(self._ids)), np.int64)

    def largest(self, place: Ints) -> list[str]:
        """The main categories with most rows, at most `CATEGORIES`; then the rest."""
        counts = np.bincount(self.main[place], minlength=len(self._names))
        order = np.argsort(-counts, kind="stable")
        named = [str(self._names[code]) for code in order.tolist() if counts[code]]
        return [*[name for name in named if name != REST][:CATEGORIES], REST]


def feature_matrix(table: pa.Table) -> NDArray[np.float32]:
    """(n, D) float32."""
    return np.asarray(table["features"].combine_chunks().flatten(), np.float32).reshape(len(table), -1)


def looks(positions: pa.ChunkedArray) -> Floats:
    """(n,) how likely each row was looked at; 1 without a position, as where features count looks."""
    weights = np.array(LOOKS_AT) / LOOKS_SCALE
    place = np.asarray(pc.fill_null(positions, 0), np.int64)
    return np.asarray(weights[np.clip(place, 0, len(weights) - 1)])


def tallies(table: pa.Table) -> tuple[Tally, Ints]:
    """The tally of each list, and its row for each example: the examples of a list have the same one."""
    users = np.asarray(table["user_id"].combine_chunks().dictionary_encode().indices, np.int64)
    times = np.asarray(table["event_time_ms"], np.int64)
    _, first, owner = np.unique(np.stack((users, times)), axis=1, return_index=True, return_inverse=True)
    lists = [table[name].combine_chunks().take(pa.array(first)) for name in TALLY]
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists[0]), 0), np.int64)
    buckets, *amounts = (np.asarray(column.flatten(), np.int64) for column in lists)
    return Tally(np.concatenate(([0], np.cumsum(lengths))), buckets, np.stack(amounts, axis=1)), owner


def latest_of_users(table: pa.Table, owner: Ints, seed: int) -> Ints:
    """Rows of the tally: each user's latest; at most `_USERS` users, drawn."""
    users = np.asarray(table["user_id"].combine_chunks().dictionary_encode().indices, np.int64)
    _, newest = np.unique(users[::-1], return_index=True)  # rows are by time
    found = owner[len(users) - 1 - newest]
    if len(found) <= _USERS:
        return found
    return np.random.default_rng(seed).choice(found, _USERS, replace=False)


def fit_prior(looked: Floats, clicked: Floats) -> Prior:
    """Expectation-maximisation: posteriors of all users, then the prior that they are draws of."""
    k, shown = looked.shape[1], np.maximum(looked, clicked)
    rate = (clicked.sum() + 1) / (shown.sum() + 2)
    prior = Prior(np.zeros(k), np.eye(k), float(np.log(rate / (1 - rate))))
    for _ in range(_ROUNDS):
        theta = posterior(*prior, looked, clicked)
        mean, spread = theta.mean(axis=0), np.zeros((k, k))
        for first in range(0, len(theta), _USERS_AT_ONCE):
            some = slice(first, first + _USERS_AT_ONCE)
            root = np.sqrt(likelihood(theta[some], prior.base, looked[some], clicked[some])[1])
            inner = np.linalg.solve(
                well_conditioned(prior.covariance, root), root[:, :, None] * prior.covariance
            )
            spread += len(root) * prior.covariance
            spread -= np.einsum("ik,nk,nkj->ij", prior.covariance, root, inner, optimize=True)
        off = theta - mean
        prior = Prior(mean, (spread + off.T @ off) / len(theta), prior.base)
    return prior


def sameness(requests: pa.ChunkedArray, categories: Ints, positions: Ints, looked_at: Floats) -> Floats:
    """(n,): looks at earlier items of the same main category in the list; 0 for rows without a list."""
    codes = np.asarray(pc.fill_null(requests, "").combine_chunks().dictionary_encode().indices, np.int64)
    lists = np.asarray(pc.is_valid(requests))
    groups = codes * (categories.max(initial=0) + 1) + categories
    order = np.lexsort((positions, groups))
    sums = np.cumsum(looked_at[order]) - looked_at[order]
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    before = sums - np.repeat(sums[first], np.diff(np.append(first, len(order))))
    found = np.empty(len(order))
    found[order] = before
    return np.where(lists, found, 0.0)


def logistic(x: Floats, clicked: Floats, looked_at: Floats) -> Floats:
    """Weights of P(click) = looked_at · σ(x · w): a row without a click counts by the probability that it was seen."""
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -LIMIT, LIMIT)))
        seen = np.where(clicked > 0, 1.0, looked_at * (1 - p) / (1 - looked_at * p))
        slope = x.T @ (seen * (clicked - p)) - _RIDGE * weights
        curvature = (x * (seen * p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, slope)
    return weights


def log_loss(log_odds: Floats, clicked: Floats, looked_at: Floats) -> float:
    """Of P(click) = looked_at · σ(log odds), per row."""
    p = np.clip(looked_at / (1 + np.exp(-np.clip(log_odds, -LIMIT, LIMIT))), 1e-9, 1 - 1e-9)
    return float(-np.where(clicked > 0, np.log(p), np.log1p(-p)).mean())
