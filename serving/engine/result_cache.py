"""Answers by user and question: a list is reused while nothing that the user did could change it.

An entry has the version of the user's history in the store, so the first request after an applied click misses,
whichever process took the click; the next list takes the place of the overtaken one. Everything else (item statistics,
the user's own impressions) may be as old as the entry's time to live, which is short for users who act often: they see
the difference. Degraded answers are not cached.
"""

import contextlib
import math
from collections.abc import Callable, Hashable
from functools import partial
from itertools import compress
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.structs import replace

from recsys.contracts.errors import RecsysError, Unavailable
from recsys.contracts.languages import title_in
from recsys.contracts.request import ABSENT, Answer, Query, bare
from recsys.contracts.types import MS_PER_SECOND
from recsys.features.definitions import ENGAGED_VISITS
from serving.caching.cache import Cache
from serving.engine.runtime import Runtime

_TEXT_BYTES = 100  # Python's overhead of a string in a set
_TREE = 10  # bytes of a filter's conditions for each of its characters
_LIST_BYTES, _ITEM_BYTES = 3_000, 400  # of an answer without its lines: its arrays, and each item's features
_ACTS = 8  # the latest ones say how often the user acts
_PROOF = "where lists have tokens: send it back with each event on the item, next to `request_id`"
_encode = msgspec.json.Encoder().encode
_SHARE = 0.01  # a list lives for this share of the mean time between them


class Recommendation(Struct, frozen=True, kw_only=True):
    """One line of the list, the best first."""

    item_id: str
    score: float
    propensity: Annotated[float, Meta(description="probability that the policy shows it at this place")]
    channels: Annotated[list[str], Meta(description="recall channels that found it")]
    title: str
    categories: list[str]
    token: Annotated[str | UnsetType, Meta(description=_PROOF)] = UNSET


class Served(Struct, frozen=True, eq=False):
    """An answer, and its lines as the client sees them: `list[Recommendation]` in JSON, a third of its bytes."""

    answer: Answer
    lines: Raw
    until_ms: int | None = None  # when the first of the items stops being available; None: no end is known
    cached: bool = False


class ResultCache:
    """Thread-safe."""

    def __init__(
        self,
        version_of: Callable[[str], str],
        max_bytes: int,
        ttl_s: float,
        longest_ttl_s: float = 0.0,
        refresh: Callable[[Callable[[], object]], object] = lambda job: None,
    ) -> None:
        """`version_of`: changes with the user's history; raises `Unavailable` when the store is away.
        `ttl_s`: of lists of users who act often; 0: no cache. `longest_ttl_s`: of others; not above `ttl_s`: all alike.
        `refresh`: runs a job in the background, or drops it: lists of users who ask repeatedly are renewed before they
        expire."""
        self.cache: Cache[Hashable, Served] = Cache(max_bytes, _weigh)
        self._version_of = version_of
        self._ttl_s = ttl_s
        self._longest_ttl_s = max(ttl_s, longest_ttl_s)
        self._refresh = refresh

    def answer(self, runtime: Runtime, query: Query) -> Served:
        """The cached answer under the query's own request id and time, or a new one. Either is logged as shown."""
        if query.explain or query.for_device or not self._ttl_s:
            return _make(runtime, query)
        try:
            version = self._version(runtime, query)
        except Unavailable:  # without the version a cached answer may be stale
            return _make(runtime, query)
        asked = (
            query.k,
            frozenset(query.context.items()),
            query.excluded_items,
            query.allow_seen,
            query.filter.text if query.filter else "",
            query.region,
            query.languages,
        )
        key = (query.user_id, asked, query.arm)
        due = partial(self._refresh, partial(self._renew, key, version, runtime, query))
        made: list[Served] = []

        def make() -> tuple[Served, float]:
            made.append(_make(runtime, query))
            return self._timed(made[0])

        served = self.cache.get_or_make(key, make, due, version)
        if made:
            return made[0]
        if served.until_ms is not None and served.until_ms <= query.now_ms:
            return _make(runtime, query)  # by the requests' clock, which need not be that of the cache
        now = replace(served.answer.query, request_id=query.request_id, now_ms=query.now_ms)
        answer = replace(served.answer, query=now)
        for stage in runtime.pipeline.side_effects:
            with contextlib.suppress(Unavailable):  # counted by the stage; the list is shown regardless
                stage.after(answer)
        return Served(answer, served.lines, served.until_ms, cached=True)

    def _renew(self, key: Hashable, version: Hashable, runtime: Runtime, query: Query) -> None:
        """Without a deadline: no request waits. If the user has acted meanwhile, the cache drops it."""
        with contextlib.suppress(RecsysError):
            served, ttl_s = self._timed(_make(runtime, replace(query, deadline_s=math.inf), shown=False))
            if ttl_s > 0:
                self.cache.renew(key, served, ttl_s, version)

    def _version(self, runtime: Runtime, query: Query) -> Hashable:
        """Of all that a list is made from and that only goes forward."""
        return (
            self._version_of(query.user_id),
            runtime.path.text,  # an arm whose settings change in the file keeps its name
            runtime.bundle.manifest.version,
            runtime.live.revision,
        )

    def _timed(self, served: Served) -> tuple[Served, float]:
        """What is kept of an answer, and for how many seconds."""
        if served.answer.degraded:
            return _bare(served), 0.0
        query = served.answer.query
        between_s = _seconds_between_acts(query)
        left_s = math.inf if served.until_ms is None else (served.until_ms - query.now_ms) / MS_PER_SECOND
        return _bare(served), min(max(self._ttl_s, _SHARE * between_s), self._longest_ttl_s, left_s)


def _seconds_between_acts(query: Query) -> float:
    """The mean over the user's latest `_ACTS` and the time since; infinite for a user who has never acted."""
    latest = query.user.histories.get(ENGAGED_VISITS.name, [])[-_ACTS:]
    if not latest:
        return math.inf
    return max(0, query.now_ms - latest[0].event_time_ms) / MS_PER_SECOND / len(latest)


def _weigh(served: Served) -> int:
    """Approximate bytes. Exclusions, context and filter count too: the client decides their size, and they are in the
    key."""
    query = served.answer.query
    texts = [*query.excluded_items, *query.context, *query.context.values(), query.region, *query.languages]
    texts += [_TREE * query.filter.text] if query.filter else []
    shown = _ITEM_BYTES * len(served.answer.candidates) + len(served.lines)
    return _LIST_BYTES + shown + sum(_TEXT_BYTES + len(text) for text in texts)


def _make(runtime: Runtime, query: Query, shown: bool = True) -> Served:
    answer = runtime.pipeline.answer(query, shown)
    until_ms = runtime.artifacts.eligibility.closes_ms(answer.candidates.rows)
    return Served(answer, _lines(runtime, answer), until_ms)


def _bare(served: Served) -> Served:
    # of a degraded list, which is not kept, others who wait for it learn that it is
    outcomes = served.answer.outcomes if served.answer.degraded else ()
    answer = replace(served.answer, query=bare(served.answer.query), outcomes=outcomes)
    return Served(answer, served.lines, served.until_ms)


def _lines(runtime: Runtime, answer: Answer) -> Raw:
    shown = answer.candidates
    columns = zip(
        map(runtime.catalogue.item, shown.rows.tolist()),
        shown.score.tolist(),
        answer.propensities.tolist(),
        (shown.ranks != ABSENT).tolist(),  # (k, channels)
        strict=True,
    )
    title = title_in(answer.query.languages)
    lines = [
        Recommendation(
            item_id=item.item_id,
            score=score,
            propensity=propensity,
            channels=list(compress(shown.channels, found)),
            title=title(item),
            categories=list(item.categories),
        )
        for item, score, propensity, found in columns
    ]
    return Raw(_encode(lines))
