"""A response model fitted to a real log: clicks, long views and dwell, with user and item effects.

    logit P(click) = b + place + user + item          likewise for a long view, given a click
    log seconds    = b + c · log(duration) + user + item + noise      of what was clicked

`place` is the surface that showed the item (KuaiRand's `tab`; the log has no positions). User and item effects are
normal around 0; their variances are estimated with them (EM on the Laplace approximation of a crossed random-effects
model). Rare users and items are shrunk, which predicts best. A simulation draws each effect from its posterior (the
population's, if unseen), because shrunk means vary less than the effects do.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_STEPS = 40
_TINY = 1e-9


@dataclass(frozen=True)
class Exposures:
    """The impressions, all (n,). Users, items and places are numbered from 0 over the whole log."""

    user: Ints
    item: Ints
    place: Ints
    duration_s: Floats

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: NDArray[np.bool_]) -> "Exposures":
        return Exposures(self.user[chosen], self.item[chosen], self.place[chosen], self.duration_s[chosen])


@dataclass(frozen=True)
class Outcome:
    """The responses, all (n,). `long_view` and `seconds` are defined where there is a click."""

    click: NDArray[np.bool_]
    long_view: NDArray[np.bool_]
    seconds: Floats

    def take(self, chosen: NDArray[np.bool_]) -> "Outcome":
        return Outcome(self.click[chosen], self.long_view[chosen], self.seconds[chosen])


@dataclass(frozen=True)
class Effects:
    """One additive model. `user`, `item`, `place`: effect by number, NaN where unseen. `*_sd`: standard deviation of
    the population; `*_posterior_sd`: of each effect, the population's where unseen."""

    base: float
    user: Floats
    item: Floats
    place: Floats
    user_sd: float
    item_sd: float
    user_posterior_sd: Floats
    item_posterior_sd: Floats

    def linear(self, shown: Exposures, rng: np.random.Generator | None = None) -> Floats:
        """(n,) linear predictor, with each effect at its mean or, given a generator, drawn from its posterior."""
        user, item = np.nan_to_num(self.user), np.nan_to_num(self.item)
        if rng is not None:
            user, item = rng.normal(user, self.user_posterior_sd), rng.normal(item, self.item_posterior_sd)
        place = np.nan_to_num(self.place)
        return np.asarray(self.base + user[shown.user] + item[shown.item] + place[shown.place])


@dataclass(frozen=True)
class FittedResponse:
    """The three models. `seconds_sd`: standard deviation of the noise; `duration_power`: of dwell in the duration."""

    click: Effects
    long_view: Effects
    seconds: Effects
    seconds_sd: float
    duration_power: float

    def click_probability(self, shown: Exposures) -> Floats:
        return _sigmoid(self.click.linear(shown))

    def respond(self, shown: Exposures, rng: np.random.Generator) -> Outcome:
        """Simulate the responses once."""
        n = len(shown)
        click = rng.random(n) < _sigmoid(self.click.linear(shown, rng))
        long_view = click & (rng.random(n) < _sigmoid(self.long_view.linear(shown, rng)))
        log_s = self.seconds.linear(shown, rng) + self.duration_power * _log(shown.duration_s)
        seconds = np.exp(log_s + rng.normal(0, self.seconds_sd, n))
        return Outcome(click, long_view, np.where(click, seconds, 0.0))


def fit(shown: Exposures, outcome: Outcome, sizes: tuple[int, int, int]) -> FittedResponse:
    """Fit the three models. `sizes`: number of users, items and places in the whole log."""
    clicked = shown.take(outcome.click)
    watched = outcome.click & (outcome.seconds > 0)
    log_s, log_d = np.log(outcome.seconds[watched]), _log(shown.duration_s[watched])
    spread = float(((log_d - log_d.mean()) ** 2).sum())
    power = float((log_d - log_d.mean()) @ (log_s - log_s.mean())) / spread if spread else 0.0
    seconds, seconds_sd = _gaussian(shown.take(watched), log_s - power * log_d, sizes)
    return FittedResponse(
        click=_logistic(shown, outcome.click.astype(np.float64), sizes),
        long_view=_logistic(clicked, outcome.long_view[outcome.click].astype(np.float64), sizes),
        seconds=seconds,
        seconds_sd=seconds_sd,
        duration_power=power,
    )


def _logistic(shown: Exposures, y: Floats, sizes: tuple[int, int, int]) -> Effects:
    """Newton steps for each group of effects in turn, each shrunk by its own variance."""
    fitted = _Fitted(shown, sizes)
    fitted.base = float(_logit(y.mean()))
    for _ in range(_STEPS):
        for effect in fitted.groups:
            p = _sigmoid(fitted.linear())
            effect.step(y - p, p * (1 - p))
        p = _sigmoid(fitted.linear())
        fitted.base += float((y - p).sum() / (p * (1 - p)).sum())
    return fitted.effects()


def _gaussian(shown: Exposures, y: Floats, sizes: tuple[int, int, int]) -> tuple[Effects, float]:
    fitted = _Fitted(shown, sizes)
    fitted.base, variance = float(y.mean()), float(y.var())
    for _ in range(_STEPS):
        for effect in fitted.groups:
            effect.step((y - fitted.linear()) / variance, np.full(len(y), 1 / variance))
        residual = y - fitted.linear()
        fitted.base += float(residual.mean())
        freedom = sum(effect.freedom for effect in fitted.groups)
        variance = float(residual @ residual / max(len(y) - freedom, 1))
    return fitted.effects(), float(np.sqrt(variance))


class _Group:
    """The effects of all users, items or places."""

    def __init__(self, code: Ints, size: int) -> None:
        self.code = code
        self.value = np.zeros(size)
        self.seen = np.bincount(code, minlength=size) > 0
        self.variance = 1.0
        self.uncertainty = np.ones(size)  # posterior variances
        self.freedom = 0.0  # effective degrees of freedom

    def step(self, gradient: Floats, curvature: Floats) -> None:
        """Take one Newton step for all effects, then update their variance."""
        size = len(self.value)
        slope = np.bincount(self.code, gradient, size) - self.value / self.variance
        information = np.bincount(self.code, curvature, size)
        uncertainty = 1 / (information + 1 / self.variance)
        self.value = np.where(self.seen, self.value + slope * uncertainty, 0.0)
        self.freedom = float((information * uncertainty)[self.seen].sum())
        self.variance = max(float((self.value**2 + uncertainty)[self.seen].mean()), _TINY)
        self.uncertainty = np.where(self.seen, uncertainty, self.variance)


class _Fitted:
    def __init__(self, shown: Exposures, sizes: tuple[int, int, int]) -> None:
        self.base = 0.0
        self.groups = [
            _Group(code, size)
            for code, size in zip((shown.user, shown.item, shown.place), sizes, strict=True)
        ]

    def linear(self) -> Floats:
        return np.asarray(self.base + sum(group.value[group.code] for group in self.groups))

    def effects(self) -> Effects:
        user, item, place = (np.where(g.seen, g.value, np.nan) for g in self.groups)
        sd = [float(np.sqrt(g.variance)) for g in self.groups]
        posterior_sd = [np.sqrt(g.uncertainty) for g in self.groups]
        return Effects(self.base, user, item, place, sd[0], sd[1], posterior_sd[0], posterior_sd[1])


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _logit(p: float) -> float:
    p = min(max(float(p), 1e-6), 1 - 1e-6)
    return float(np.log(p / (1 - p)))


def _log(seconds: Floats) -> Floats:
    return np.log(np.maximum(seconds, 0.1))
