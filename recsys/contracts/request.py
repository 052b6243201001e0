"""What travels along the request path: the query, its candidates as arrays, what is selected, and the answer.

`Query` is the request and, once hydrated, what is known of the user. `Candidates` are parallel arrays, so a stage
works on all items at once. Both are immutable; a stage returns a changed copy. They are msgspec structs because a
request makes about ten copies (`replace`): 0.2 µs each, 8 µs for a frozen dataclass.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np
from msgspec import Struct, field
from msgspec.structs import force_setattr, replace
from numpy.typing import NDArray

from recsys.contracts.eligible import Eligible
from recsys.contracts.filters import Filter
from recsys.contracts.state import EntityState
from recsys.contracts.types import DEEP, Head

Rows = NDArray[np.int32]

ELIGIBILITY = "eligibility"  # the stage that finds what is eligible
ABSENT = -1  # the rank of a candidate in a channel that did not return it


_NO_ROWS: Rows = np.empty(0, np.int32)
_NO_NUMBERS: NDArray[np.int64] = np.empty(0, np.int64)
_NO_FEATURES: NDArray[np.float32] = np.empty((0, 0), np.float32)


def among(rows: Rows, some: Rows) -> NDArray[np.bool_]:
    """Which of `rows` (any shape) are in `some` (sorted, no repeats); bool of the same shape.

    >>> among(np.array([3, 1, 7], np.int32), np.array([1, 2, 3], np.int32)).tolist()
    [True, True, False]
    """
    if not len(some):
        return np.zeros(rows.shape, bool)
    found: NDArray[np.bool_] = some.take(some.searchsorted(rows), mode="clip") == rows
    return found


class Query(Struct, frozen=True, eq=False):
    """One request for recommendations.

    `deadline_s` is on the pipeline's clock (monotonic seconds); infinite means none. Query hydrators set the fields
    after `arm`; their defaults describe an unknown user.
    """

    request_id: str
    user_id: str
    k: int
    now_ms: int
    deadline_s: float = math.inf
    context: Mapping[str, str] = field(default_factory=dict)
    excluded_items: frozenset[str] = frozenset()
    allow_seen: bool = False  # seen items may be shown, whatever the policy of repeats
    filter: Filter | None = None  # which items may be shown; None: all
    region: str = ""  # of the request, else the user's; empty: unknown
    languages: tuple[str, ...] = ()  # of titles, the preferred one first; none: default titles
    explain: bool = False
    for_device: bool = False  # the answer has all ranked candidates, for a device to rerank
    arm: str = ""  # the experiments' arms (`recsys.contracts.impressions.exposures_text`)

    known: bool = False  # the store has state of this user
    user: EntityState = field(default_factory=EntityState)
    attributes: Mapping[str, str] = field(default_factory=dict)
    # inputs of the models, (L,) int64, newest last, left-padded with 0 (`recsys.models.encoding`)
    history: NDArray[np.int64] = _NO_NUMBERS
    types: NDArray[np.int64] = _NO_NUMBERS
    gaps: NDArray[np.int64] = _NO_NUMBERS
    recent_rows: Rows = _NO_ROWS  # engaged items, newest first, no repeats
    seen_rows: Rows = _NO_ROWS  # must not be shown again; sorted, no repeats
    repeat_rows: Rows = _NO_ROWS  # seen, but may return; newest first, not in `seen_rows`
    excluded_rows: Rows = _NO_ROWS  # of `excluded_items`; sorted, no repeats
    eligible: Eligible | None = None  # what time, region and filter leave; None: all items
    narrowed_from: int = DEEP  # place; from there on the request decides more than the shop what is shown
    ineligible: Mapping[str, Rows] = field(default_factory=dict)  # the others by reason, in explain mode only

    @property
    def hidden(self) -> int:
        """How many rows must not be shown."""
        return self.hidden_from_user + (self.eligible.hidden if self.eligible else 0)

    @property
    def hidden_from_user(self) -> int:
        """How many rows must not be shown to this user, or again, although they are eligible."""
        return len(self.seen_rows) + len(self.excluded_rows)

    def may_show(self, rows: Rows) -> NDArray[np.bool_]:
        """(n,) bool: eligible, neither seen nor excluded. Sources may use it; the filters decide."""
        hidden = among(rows, self.seen_rows)
        if len(self.excluded_rows):
            hidden |= among(rows, self.excluded_rows)
        return ~hidden if self.eligible is None else ~hidden & self.eligible.of(rows)


def bare(query: Query) -> Query:
    """To be kept: what was asked, without what the stages found out, which is many times as large as a list."""
    asked = (query.request_id, query.user_id, query.k, query.now_ms, query.deadline_s, query.context)
    limits = (query.excluded_items, query.allow_seen, query.filter, query.region, query.languages)
    return Query(
        *asked, *limits, query.explain, query.for_device, query.arm, narrowed_from=query.narrowed_from
    )


class Candidates(Struct, frozen=True, eq=False):
    """N candidates; entry i of every array belongs to the same item.

    rows: (N,) int32 into the item table, no repeats.
    ranks: (N, C) int16, place in each of `channels` from 0, `ABSENT` where that channel did not return it.
    score: (N,) float32, which orders them; from recall until a scorer replaces it.
    scores: one (N,) float32 per head of the ranker; empty before ranking.
    features: (N, D) float32 in the order of the bundle's feature names; (N, 0) before hydration.
    """

    rows: Rows
    channels: tuple[str, ...]
    ranks: NDArray[np.int16]
    score: NDArray[np.float32]
    scores: Mapping[Head, NDArray[np.float32]] = field(default_factory=dict)
    features: NDArray[np.float32] = _NO_FEATURES

    def __post_init__(self) -> None:
        n = len(self.rows)
        if self.features is _NO_FEATURES:
            force_setattr(self, "features", np.empty((n, 0), np.float32))
        fits = len(self.score) == len(self.features) == n and self.ranks.shape == (n, len(self.channels))
        if not fits or any(len(values) != n for values in self.scores.values()):
            lengths = {"ranks": len(self.ranks), "score": len(self.score), "features": len(self.features)}
            lengths.update((f"scores[{head}]", len(values)) for head, values in self.scores.items())
            wrong = ", ".join(f"{name} has {length}" for name, length in lengths.items() if length != n)
            raise ValueError(f"{n} candidates of {len(self.channels)} channels: {wrong or self.ranks.shape}")

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: NDArray[Any]) -> Self:
        """The candidates at `positions`: (M,) integers in the new order, or an (N,) bool mask."""
        if positions.dtype == bool:
            positions = np.flatnonzero(positions)
        return replace(
            self,
            rows=self.rows[positions],
            ranks=self.ranks.take(positions, axis=0),  # much faster than indexing by rows
            score=self.score[positions],
            scores={head: values[positions] for head, values in self.scores.items()},
            features=self.features.take(positions, axis=0),
        )

    def without_features(self) -> Self:
        """The same candidates with (N, 0) features."""
        return replace(self, features=_NO_FEATURES)

    def channels_of(self, position: int) -> dict[str, int]:
        """The rank of one candidate in each channel that returned it."""
        ranks = self.ranks[position]
        return {name: int(rank) for name, rank in zip(self.channels, ranks, strict=True) if rank != ABSENT}


class Selection(NamedTuple):
    """What is shown, in order.

    positions: (≤ k,) integers into the candidates, no repeats.
    propensities: as long, float32: the probability that the policy shows this item at this place (1: always).
    """

    positions: NDArray[np.int64]
    propensities: NDArray[np.float32]


class Status(StrEnum):
    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"  # began, but did not finish in time
    SKIPPED = "skipped"  # the deadline had passed before it began


class StageOutcome(Struct, frozen=True):
    """What one stage did to one request. Counts are candidates; `removed` is by reason (filters only)."""

    stage: str
    kind: str  # "query_hydrator", "source", …
    status: Status
    count_in: int
    count_out: int
    ms: float
    error: str = ""
    removed: Mapping[str, int] = field(default_factory=dict)
    non_finite: int = 0  # scorers: candidates that sank because a score was NaN or infinite
    began_ms: float = 0.0  # since the request entered the pipeline


class Explanation(Struct, frozen=True, eq=False):
    """The funnel of one request, in explain mode only.

    recalled: channel → rows as the channel returned them.
    removed: filter → reason → rows; under `ELIGIBILITY`, the items that recall left out.
    ranked: every candidate that reached the selector, best first, with channel ranks, scores and features.
    """

    recalled: Mapping[str, Rows]
    removed: Mapping[str, Mapping[str, Rows]]
    ranked: Candidates


class Answer(Struct, frozen=True, eq=False):
    """The result of one request. `candidates` are the shown items in order; `propensities` (≤ k,) float32; `compiled`:
    compiled code stood in for some stages; `ranked`, for devices only: every candidate that reached the selector, best
    first."""

    query: Query  # hydrated
    candidates: Candidates
    propensities: NDArray[np.float32]
    outcomes: tuple[StageOutcome, ...]
    explanation: Explanation | None = None
    compiled: bool = False
    ranked: Candidates | None = None

    @property
    def degraded(self) -> tuple[str, ...]:
        """The stages that failed, timed out or were skipped, in order."""
        return tuple(outcome.stage for outcome in self.outcomes if outcome.status is not Status.OK)


def no_candidates(channels: tuple[str, ...] = ()) -> Candidates:
    """Zero candidates of these channels."""
    return Candidates(_NO_ROWS, channels, np.empty((0, len(channels)), np.int16), np.empty(0, np.float32))
