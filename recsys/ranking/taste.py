"""A user's taste in categories: a mixed model of clicks and conversions, whose log odds are the ranker's offsets.

    log odds of a click, if looked at = w · x + w_taste · (base + θ[category])        θ ~ N(mean, covariance), per user
    log odds of a conversion, if clicked = v · y + v_click · (log odds of the click)

x and y are fixed effects of item and user, read from the features. θ is learnt from the user's own looks and clicks by
category (`recsys.features.tally`), with Laplace's approximation (Rasmussen, Williams 2006, algorithm 3.1): what is
known of one category says something of those that are liked together with it. Fitted by `training.ranker.fit_taste`;
why it is part of the ranker, and not a feature: ADR 18.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle
from recsys.features.aggregates import BUCKETS, LOOKS_SCALE, bucket_of
from recsys.features.feature_set import FeatureSet
from recsys.features.tally import Tally
from recsys.models.encoding import OFFSET_LIMIT
from recsys.operator_files import read_json

TASTE = "taste.json"
REST = ""  # stands for all categories that are not among the largest
# Newton's method ends where no step is longer than `_CLOSE`: mostly after four; one user in ten thousand needs over 8
_STEPS, _CLOSE = 16, 1e-4
_STRIDE = 4.0  # the longest step: full ones, after many clicks with few looks, throw it from side to side
_ROWS = 4_096  # solved together

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Taste(msgspec.Struct, frozen=True, kw_only=True):
    """`taste.json` of a bundle: the fitted numbers. The K categories are in the order of `mean`; the last is `REST`.

    weights, conversion: of the fixed effects by name (`EFFECTS`), in log odds; conversion also of `CLICK`, and empty
        where there was too little to learn from. taste: weight of base + θ; 0: taste says nothing.
    sameness: log odds for each look at an earlier item of the same main category in the list, at most 0.
    """

    categories: list[str]
    base: float
    mean: list[float]
    covariance: list[list[float]]
    weights: dict[str, float]
    conversion: dict[str, float]
    taste: float
    sameness: float

    def __post_init__(self) -> None:
        k = len(self.categories)
        numbers = [self.base, self.taste, self.sameness, *self.mean]
        numbers += [*self.weights.values(), *self.conversion.values()]
        if not k or self.categories[-1] != REST or len(self.mean) != k:
            raise ValueError("taste: a mean for each category, the rest last")
        if [len(row) for row in self.covariance] != [k] * k:
            raise ValueError("taste: a covariance for each pair of categories")
        if not np.isfinite(numbers).all() or not np.isfinite(self.covariance).all():
            raise ValueError("taste: numbers must be finite")
        if not {*self.weights, *self.conversion} <= {*EFFECTS, CLICK}:
            raise ValueError(f"taste: effects are {', '.join(EFFECTS)}")


def _log_odds(rate: Floats) -> Floats:
    inside = np.clip(rate, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _log(amount: Floats) -> Floats:
    return np.asarray(np.log1p(np.maximum(amount, 0.0)))


def _known(dwells: Floats) -> Floats:
    """How far the mean of n dwell events can be relied on: 0 … 1."""
    return np.asarray(dwells / (dwells + DWELLS))


CLICK = "click"
DWELLS = 4.0
_DWELL = ("item_dwells_ever", "item_mean_log_dwell_ever", "item_duration_ms")
# Fixed effect → the feature columns that it reads, and how. Together, the three of dwell are how much longer an item is
# read than others of its duration.
EFFECTS: Mapping[str, tuple[tuple[str, ...], Callable[..., Floats]]] = {
    "intercept": (("item_age_days",), np.ones_like),
    "item": (("item_ctr_ever",), _log_odds),
    "item_this_week": (("item_ctr_7d",), _log_odds),
    "item_now": (("item_ctr_decay2d",), _log_odds),
    "age": (("item_age_days",), _log),
    "looks": (("item_looked_by_user_decay7d",), np.asarray),
    "read": (_DWELL[:1], _known),
    "read_for": (_DWELL[:2], lambda dwells, logarithm: _known(dwells) * logarithm),
    "duration": (_DWELL[::2], lambda dwells, duration: _known(dwells) * _log(duration)),
    "price": (("item_price",), _log),
    "buyer": (("user_conversion_rate_30d_settled",), _log_odds),
    "price_of_buyer": (
        ("item_price", "user_conversion_rate_30d_settled"),
        lambda price, rate: _log(price) * _log_odds(rate),
    ),
    "item_converts": (("item_conversion_rate_ever",), _log_odds),
}
OF_CLICKS = ("intercept", "item", "item_this_week", "item_now", "age", "looks")
OF_CONVERSIONS = (
    *("intercept", "read", "read_for", "duration", "price", "buyer", "price_of_buyer", "item_converts"),
)


class TasteModel:
    """Computes offsets. Thread-safe."""

    def __init__(self, taste: Taste, features: FeatureSet) -> None:
        """Raises `UnknownFeature`: an effect reads a column that the features do not have."""
        self.taste = taste
        self._mean, self._covariance = np.array(taste.mean), np.array(taste.covariance)
        self._codes = category_codes(taste.categories)
        self._click = Effects(features, taste.weights)
        self._conversion = Effects(features, taste.conversion)

    def offsets(
        self, tally: Tally, owner: Ints, buckets: Ints, features: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Log odds for each candidate, within ± `OFFSET_LIMIT`: (N, 2) float32, of a click if it is looked at alone,
        and of a conversion if it is clicked; 0 where that is left to the ranker.

        Args:
            tally: of one or more users.
            owner: (N,) the tally's row for each candidate.
            buckets: (N, 4) category buckets of each candidate, padded with `BUCKETS`.
            features: (N, D) as `features.names` has them.
        """
        click = self._click.of(features)
        if self.taste.taste:
            click += self.taste.taste * self.tastes(tally, owner, buckets)
        conversion = self._conversion.of(features) + self.taste.conversion.get(CLICK, 0.0) * click
        both = np.stack((click, conversion), axis=1)
        offsets: NDArray[np.float32] = np.clip(both, -OFFSET_LIMIT, OFFSET_LIMIT).astype(np.float32)
        return offsets

    def tastes(self, tally: Tally, owner: Ints, buckets: Ints) -> Floats:
        """(N,) base + θ of each candidate: the mean over its categories; without one, that of the rest."""
        looked, clicked = by_category(tally, self._codes, len(self._mean))
        theta = posterior(self._mean, self._covariance, self.taste.base, looked, clicked)
        return self.taste.base + of_candidates(theta, owner, self._codes[buckets])


class Effects:
    """Fixed effects, weighted and summed."""

    def __init__(self, features: FeatureSet, weights: Mapping[str, float]) -> None:
        names = [name for name in weights if name != CLICK]
        self._weights = np.array([weights[name] for name in names])
        self._columns = [[features.column(column) for column in EFFECTS[name][0]] for name in names]
        self._functions = [EFFECTS[name][1] for name in names]

    def matrix(self, features: NDArray[np.float32]) -> Floats:
        """(N, D) → (N, effects)."""
        read = [
            function(*(features[:, column].astype(np.float64) for column in columns))
            for function, columns in zip(self._functions, self._columns, strict=True)
        ]
        return np.nan_to_num(np.stack(read, axis=1)) if read else np.zeros((len(features), 0))

    def of(self, features: NDArray[np.float32]) -> Floats:
        """(N,) log odds."""
        return np.asarray(self.matrix(features) @ self._weights)


def category_codes(categories: Sequence[str]) -> Ints:
    """(BUCKETS + 1,): the category of each bucket; -1 for the padding. A bucket without one belongs to the rest."""
    codes = np.full(BUCKETS + 1, len(categories) - 1, np.int64)
    for code, category in reversed([*enumerate(categories[:-1])]):  # of two in a bucket, the larger one
        codes[bucket_of(category)] = code
    codes[BUCKETS] = -1
    return codes


def by_category(tally: Tally, codes: Ints, k: int) -> tuple[Floats, Floats]:
    """Looks and clicks of each row of a tally, (n, K) each."""
    n = len(tally.bounds) - 1
    row = np.repeat(np.arange(n), np.diff(tally.bounds))
    place = row * k + codes[tally.buckets]
    looked, clicked = (
        np.bincount(place, amounts, minlength=n * k).reshape(n, k).astype(np.float64)
        for amounts in tally.amounts.T
    )
    return looked / LOOKS_SCALE, clicked


def of_candidates(theta: Floats, owner: Ints, codes: Ints) -> Floats:
    """(n, K) by category → (N,): the mean over each candidate's categories. `codes`: (N, 4), padded with -1."""
    there = codes >= 0
    codes = np.where(there.any(axis=1, keepdims=True), codes, theta.shape[1] - 1)
    there = codes >= 0
    values = np.where(there, theta[owner[:, None], codes], 0.0)
    return np.asarray(values.sum(axis=1) / there.sum(axis=1))


def posterior(mean: Floats, covariance: Floats, base: float, looked: Floats, clicked: Floats) -> Floats:
    """(n, K): the mode of θ of n users, who looked and clicked that often in each category, (n, K) each."""
    parts = [
        _posterior(mean, covariance, base, looked[first : first + _ROWS], clicked[first : first + _ROWS])
        for first in range(0, len(looked), _ROWS)
    ]
    return np.concatenate(parts) if parts else np.empty((0, len(mean)))


def _posterior(mean: Floats, covariance: Floats, base: float, looked: Floats, clicked: Floats) -> Floats:
    theta = np.tile(mean, (len(looked), 1))
    for _ in range(_STEPS):
        slope, curvature = likelihood(theta, base, looked, clicked)
        root = np.sqrt(curvature)
        b = curvature * (theta - mean) + slope
        solved = np.linalg.solve(well_conditioned(covariance, root), (root * (b @ covariance))[:, :, None])
        step = mean + (b - root * solved[:, :, 0]) @ covariance - theta
        longest = np.abs(step).max(axis=1, keepdims=True)
        theta = theta + step * np.minimum(1.0, _STRIDE / np.maximum(longest, _STRIDE))
        if longest.max() < _CLOSE:
            break
    return theta


def likelihood(theta: Floats, base: float, looked: Floats, clicked: Floats) -> tuple[Floats, Floats]:
    """First and negative second derivative of the log likelihood of the clicks. What is clicked was looked at."""
    looks = np.maximum(looked, clicked)
    p = 1 / (1 + np.exp(-np.clip(base + theta, -OFFSET_LIMIT, OFFSET_LIMIT)))
    return clicked - looks * p, looks * p * (1 - p)


def well_conditioned(covariance: Floats, root: Floats) -> Floats:
    """I + √W Σ √W for each row of √W, (n, K, K): its eigenvalues are at least 1, whatever the covariance is."""
    return np.eye(len(covariance)) + root[:, :, None] * covariance * root[:, None, :]


def write_taste(folder: Path, taste: Taste) -> None:
    """Write `taste.json`."""
    (folder / TASTE).write_bytes(msgspec.json.format(msgspec.json.encode(taste)))


def read_taste(folder: Path) -> Taste | None:
    """None: the ranker was trained without one.

    Raises:
        InvalidBundle: the file breaks the format.
    """
    try:
        return read_json(folder / TASTE, Taste, InvalidBundle)
    except FileNotFoundError:
        return None
