"""Fit the taste model (`recsys.ranking.taste`) on labelled lists.

1. How tastes differ between users: mean and covariance by expectation-maximisation over the users' latest tallies.
2. What they are worth: a logistic regression of the clicks in which each list sees the taste as of then, so it is
   judged by what came next. Whether an item was looked at is not known: expectation-maximisation over it, too, with
   the position's weight as the prior (the position-based model; Wang et al. 2018 fit it this way).
3. Where taste does not make the newest lists more likely, its weight is 0. That happens (KuaiRand: who has just clicked
   has fewer clicks left), and a fit that looks back would not notice. Who clicks a lot, whatever it is, is no taste:
   knowing it makes lists more likely and puts none into a better order, so each user's level is known to both sides.
4. Conversions: a logistic regression over the clicked rows, the log odds of the click among its effects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.types import Item
from recsys.features.definitions import FEATURES
from recsys.models.encoding import OFFSET_LIMIT
from recsys.ranking.taste import (
    CLICK,
    OF_CLICKS,
    OF_CONVERSIONS,
    TASTE,
    Effects,
    Floats,
    Ints,
    Taste,
    TasteModel,
    likelihood,
    of_candidates,
    posterior,
    well_conditioned,
    write_taste,
)
from training.features.packing import TALLY, matrix_of
from training.ranker.dataset import fragments, rows_of_days
from training.ranker.taste_rows import COLUMNS, ItemCategories, TasteRows, tallies, taste_rows

NEWEST = 0.2  # share of the rows that judge
_LEAST = 200  # of either outcome; with fewer there is nothing to learn
_ROWS = 500_000
_USERS, _USERS_AT_ONCE = 20_000, 2_000  # drawn, for mean and covariance
_ROUNDS, _STEPS = 12, 25
_RIDGE, _STRIDE = 1e-3, 4.0  # the longest step keeps a nearly certain outcome from being overshot
_SURE = 2.0  # standard errors, between users, by which taste must make the newest rows more likely


@dataclass(frozen=True)
class Fitted:
    """`loss` per row of the newest lists, with the user's level alone and with taste, from a fit on the others."""

    taste: Taste
    rows: int
    loss_without: float
    loss_with: float


def learn_taste(examples: Path, items: Sequence[Item], share: float, seed: int) -> Fitted | None:
    """`fit_taste` on the oldest `share` of the examples, of these at most the newest `_ROWS`.

    Raises:
        InvalidData: there are no examples, or they were built before there were tallies.
    """
    wanted, first, n = newest_days(examples, share)
    table = pa.concat_tables(fragments(examples, (*COLUMNS, *TALLY), wanted))
    return fit_taste(table.sort_by([("event_time_ms", "ascending")]).slice(first, n), items, seed)


def newest_days(examples: Path, share: float) -> tuple[list[str] | None, int, int]:
    """The days that have the newest `_ROWS` of the oldest `share` of the rows; the place of the first one in them, and
    how many there are. Other days are not read: with their tallies they may be larger than the memory."""
    rows = rows_of_days(examples)
    end = int(rows.total() * share)
    start, before = max(0, end - _ROWS), 0
    found: list[str] = []
    first = 0
    for day in sorted(rows):
        if before < end and before + rows[day] > start:
            first = first if found else start - before
            found.append(day)
        before += rows[day]
    return found or None, first, end - start


def fit_taste(table: pa.Table, items: Sequence[Item], seed: int) -> Fitted | None:
    """Fit on example rows; None: there are too few clicks on shown items.

    Args:
        table: with the columns `COLUMNS` and `TALLY`.
        items: the item table.
        seed: of the draw of users, if there are many.
    """
    if not pc.any(pc.greater(pc.list_value_length(table["tally_buckets"]), 0)).as_py():
        return None  # nobody had been shown anything, as in a log of ratings
    rows = taste_rows(table, items)
    if not rows.looked.any() or not _varies(rows.clicked):
        return None
    latest = latest_states(rows, seed)
    prior = fit_prior(rows.looked[latest], rows.clicks[latest])
    theta = posterior(*prior, rows.looked, rows.clicks)
    tastes = prior.base + of_candidates(theta, rows.owner, rows.codes)
    level = prior.base + theta.mean(axis=1)[rows.owner]
    effects = Effects(FEATURES, dict.fromkeys(OF_CLICKS, 0.0)).matrix(rows.features)
    without = np.column_stack([effects, rows.same])
    loss_without, _ = judged(rows, np.column_stack([without, level]))
    loss_with, weights = judged(rows, np.column_stack([without, level, tastes - level]))
    helps = improves(loss_without - loss_with, newest_users(rows)) and weights[-1] > 0
    weights = logistic(np.column_stack([without, tastes]) if helps else without, rows.clicked, rows.looked_at)
    *of_effects, of_same, of_taste = (weights if helps else np.append(weights, 0.0)).tolist()
    of_taste = max(0.0, of_taste)
    alone = effects @ of_effects + of_taste * tastes
    taste = Taste(
        categories=rows.categories,
        base=prior.base,
        mean=prior.mean.tolist(),
        covariance=prior.covariance.tolist(),
        weights=dict(zip(OF_CLICKS, of_effects, strict=True)),
        conversion=fit_conversions(rows, alone),
        taste=of_taste,
        sameness=min(0.0, of_same),
    )
    return Fitted(taste, len(rows), float(loss_without.mean()), float(loss_with.mean()))


class Prior(NamedTuple):
    """How θ is distributed over users: (K,), (K, K); `base`: log odds of all clicks."""

    mean: Floats
    covariance: Floats
    base: float


def latest_states(rows: TasteRows, seed: int) -> Ints:
    """Each user's latest state; at most `_USERS` users, drawn."""
    _, newest = np.unique(rows.users[::-1], return_index=True)  # rows are by time
    found = rows.owner[len(rows) - 1 - newest]
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


def judged(rows: TasteRows, x: Floats) -> tuple[Floats, Floats]:
    """Log loss of each of the newest rows, by weights that the others gave; the weights."""
    old, new = slice(0, _older(rows)), slice(_older(rows), None)
    weights = logistic(x[old], rows.clicked[old], rows.looked_at[old])
    return log_loss(x[new] @ weights, rows.clicked[new], rows.looked_at[new]), weights


def improves(gains: Floats, users: Ints) -> bool:
    """Whether the mean gain is above 0 by `_SURE` standard errors; the rows of one user are not independent."""
    by_user = np.bincount(users, gains - gains.mean())
    return bool(gains.sum() > _SURE * np.sqrt(np.sum(by_user**2)))


def newest_users(rows: TasteRows) -> Ints:
    """The users of the rows that judge."""
    return rows.users[_older(rows) :]


def _older(rows: TasteRows) -> int:
    return int(len(rows) * (1 - NEWEST))


def fit_conversions(rows: TasteRows, click: Floats) -> dict[str, float]:
    """Weights of a conversion, from the clicked rows; none where there are too few of either outcome.

    Args:
        click: (n,) log odds of a click on each, alone.
    """
    clicked = rows.clicked > 0
    converted = rows.converted[clicked]
    if not _varies(converted):
        return {}
    effects = Effects(FEATURES, dict.fromkeys(OF_CONVERSIONS, 0.0)).matrix(rows.features[clicked])
    weights = logistic(np.column_stack([effects, click[clicked]]), converted, np.ones(len(converted)))
    return dict(zip((*OF_CONVERSIONS, CLICK), weights.tolist(), strict=True))


def logistic(x: Floats, clicked: Floats, looked_at: Floats) -> Floats:
    """Weights of P(click) = looked_at · σ(x · w): a row without a click counts by the probability that it was seen."""
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -OFFSET_LIMIT, OFFSET_LIMIT)))
        seen = np.where(clicked > 0, 1.0, looked_at * (1 - p) / (1 - looked_at * p))
        slope = x.T @ (seen * (clicked - p)) - _RIDGE * weights
        curvature = (x * (seen * p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, slope)
        weights = weights + step * min(1.0, _STRIDE / max(float(np.abs(step).max()), _STRIDE))
    return weights


def log_loss(log_odds: Floats, clicked: Floats, looked_at: Floats) -> Floats:
    """(n,) of P(click) = looked_at · σ(log odds)."""
    p = np.clip(looked_at / (1 + np.exp(-np.clip(log_odds, -OFFSET_LIMIT, OFFSET_LIMIT))), 1e-9, 1 - 1e-9)
    return np.asarray(-np.where(clicked > 0, np.log(p), np.log1p(-p)))


def _varies(outcome: Floats) -> bool:
    return bool(min(outcome.sum(), (1 - outcome).sum()) >= _LEAST)


class TasteOffsets:
    """`training.ranker.dataset.Offset` of a fitted taste."""

    def __init__(self, taste: Taste, items: Sequence[Item]) -> None:
        self._model, self._items = TasteModel(taste, FEATURES), ItemCategories(items)

    def __call__(self, table: pa.Table) -> NDArray[np.float32]:
        """(n, 2) float32."""
        tally, owner = tallies(table)
        buckets = self._items.buckets[self._items.place(table["item_id"])]
        return self._model.offsets(tally, owner, buckets, matrix_of(table["features"], FEATURES.dimension))


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
