"""Canaries in virtual time: users arrive, draw a visit from those that were played, and the guardrails look at them.

A fast simulator of counts, calibrated on the world: each user has the lists of a played visitor, drawn with
replacement, clicks as often as expected of that visitor (Poisson), and buys what is clicked as often (binomial). The
statistics are the product's own (`user_guardrails`, `request_guardrails`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.fault_injection.release.lists import Lists
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR
from recsys.experiments.analysis import ArmData, always_valid_p
from recsys.experiments.guardrails import Requests, request_guardrails, shadow_problems, user_guardrails
from recsys.experiments.outcomes import SUMS, Outcomes
from recsys.experiments.release import CANARY, CONTROL, SHARES, Check, Look, Mirrored, Release

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# as the API's histogram
_BOUNDS_MS = (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 80, 150, 500, 2_000, float("inf"))
_MOST = 5_000  # users of an arm that are compared; more would find more, and take longer
_POWER_80 = 0.8416  # standard errors
_MIXTURE = 0.05  # of the mixture SPRT, as `analysis.compare` has it


@dataclass(frozen=True)
class Traffic:
    """`users`: who come in a day, evenly; each comes once. `mirrored`: requests per hour that the shadow compares."""

    users: int = 100_000
    mirrored: int = 2_000


@dataclass
class SimulatedEvidence:
    """`infra.release.controller.Evidence` of one candidate. `lift`: more clicks than were played, relatively.
    `defences`: without them the canary is alone."""

    serving: Lists
    candidate: Lists
    gate: Callable[[], tuple[Check, ...]]
    traffic: Traffic
    clock: Callable[[], int]
    seed: int
    lift: float = 0.0
    defences: bool = True
    _drawn: dict[tuple[str, str], Ints] = field(default_factory=dict)

    def checks(self, release: Release) -> tuple[Check, ...]:
        return self.gate() if self.defences else ()

    def mirrored(self, release: Release) -> Mirrored:
        now_ms = self.clock()
        requests = int(self.traffic.mirrored * (now_ms - release.since_ms) / MS_PER_HOUR)
        if not self.defences:
            return Mirrored(now_ms, requests, ())
        new, old = self.candidate, self.serving
        of_both = min(len(new.ms), len(old.ms))
        problems = shadow_problems(
            of_both,
            new.failed,
            float(old.ms[:of_both].mean()),
            float(new.ms[:of_both].mean()),
            old.distinct_items(of_both),
            new.distinct_items(of_both),
        )
        return Mirrored(now_ms, requests, problems)

    def look(self, release: Release) -> Look:
        now_ms, share = self.clock(), SHARES[release.stage]
        came = self.traffic.users * (now_ms - release.since_ms) / MS_PER_DAY
        users, others = round(came * share), round(came * (1 - share))
        if users < 2 or others < 2:
            return Look(now_ms, release.stage, users, {})
        arms = {
            arm: self._draw(release, arm, min(_MOST, n)) for arm, n in ((CANARY, users), (CONTROL, others))
        }
        pools = {CANARY: Pool(self.candidate, self.lift), CONTROL: Pool(self.serving)}
        outcomes = outcomes_of(pools, arms, self.seed)
        p = user_guardrails(outcomes)
        p |= request_guardrails(*(pools[arm].requests(arms[arm]) for arm in (CONTROL, CANARY)))
        return Look(now_ms, release.stage, users, p)

    def _draw(self, release: Release, arm: str, users: int) -> Ints:
        """Who of the played visitors each user is: at a later look the earlier users are the same."""
        pool = self.candidate if arm == CANARY else self.serving
        key = release.stage, arm
        if len(self._drawn.get(key, ())) < users:
            rng = np.random.default_rng((self.seed, list(SHARES).index(release.stage), arm == CANARY))
            self._drawn[key] = rng.integers(0, pool.visitors, 2 * users)
        return self._drawn[key][:users]


class Pool:
    """Sums of each played visitor."""

    def __init__(self, lists: Lists, lift: float = 0.0) -> None:
        self.lift = lift
        of = lists.visitor
        self.lists = np.bincount(of).astype(float)
        self.impressions = np.bincount(of, lists.lengths)
        self.clicks, self.purchases = np.bincount(of, lists.clicks), np.bincount(of, lists.purchases)
        shown = lists.items >= 0
        self.items = lists.items[shown]  # by visitor
        counts = np.bincount(np.repeat(of, lists.lengths), minlength=lists.visitors)
        self.first = np.cumsum(counts) - counts
        self._counts = counts
        below = lists.ms[:, None] <= np.array(_BOUNDS_MS)
        self._below = np.stack([np.bincount(of, column) for column in below.T], axis=1)

    def acts(self, users: Ints, seed: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Clicks and purchases of each user; at a later look the earlier users have the same."""
        clicked, bought = (np.random.default_rng((*seed, stream)) for stream in (0, 1))
        clicks = clicked.poisson(self.clicks[users] * (1 + self.lift))
        share = self.purchases[users] / np.maximum(self.clicks[users], 1e-9)
        return clicks.astype(float), bought.binomial(clicks, np.minimum(share, 1.0)).astype(float)

    def requests(self, users: Ints) -> Requests:
        n = self._below[users].sum(axis=0)
        seconds = {bound / 1e3: int(count) for bound, count in zip(_BOUNDS_MS, n, strict=True)}
        return Requests(int(n[-1]), 0, seconds)

    def shown(self, users: Ints) -> tuple[Ints, Ints]:
        """(m,) index into `users` and item of each impression."""
        counts = self._counts[users]
        owner = np.repeat(np.arange(len(users)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, self.items[self.first[users][owner] + within]


def outcomes_of(pools: dict[str, Pool], arms: dict[str, Ints], seed: int) -> Outcomes:
    """As the lake would give them."""
    sums: dict[str, list[Floats]] = {name: [] for name in SUMS}
    owners, items, before = [], [], 0
    for name, users in arms.items():
        pool = pools[name]
        clicks, purchases = pool.acts(users, (seed, name == CANARY))
        found = {
            "users": np.ones(len(users)),
            "lists": pool.lists[users],
            "impressions": pool.impressions[users],
            "clicks": clicks,
            "purchases": purchases,
        }
        for each in SUMS:
            sums[each].append(found.get(each, np.zeros(len(users))))
        owner, shown = pool.shown(users)
        owners.append(owner + before)
        items.append(shown)
        before += len(users)
    arm = np.repeat(np.arange(len(arms)), [len(users) for users in arms.values()])
    whole = {name: np.concatenate(parts) for name, parts in sums.items()}
    empty = dict.fromkeys(SUMS, np.zeros(len(arm)))
    shares = tuple(len(users) / len(arm) for users in arms.values())
    return Outcomes(
        tuple(arms), shares, arm, whole, empty, 0, np.concatenate(owners), np.concatenate(items), ""
    )


def detectable_drop(lists: Lists, users: int, level: float, others: float = 9.0) -> float:
    """The relative loss of CTR that a look at that many users of the canary, and `others` times as many of the control,
    finds with 80 % power; 1: not even the loss of all clicks."""
    pool = Pool(lists)
    clicks, _ = pool.acts(np.arange(lists.visitors), (0,))
    arm = ArmData(clicks, pool.impressions.astype(np.float64))
    residual = (arm.numerator - arm.ratio * arm.denominator) / arm.denominator.mean()
    variance = float(residual.var(ddof=1)) / users * (1 + 1 / others)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        seen = middle * arm.ratio - _POWER_80 * variance**0.5  # in four of five looks it is at least this
        found = seen > 0 and always_valid_p(seen, variance, _MIXTURE * arm.ratio) <= level
        low, high = (low, middle) if found else (middle, high)
    return high
