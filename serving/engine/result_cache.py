"""Answers by user, context and history version: a list is reused while nothing that the user did could change it.

The key holds the version of the user's history in the store, so the first request after an applied click misses,
whichever process took the click. Everything else (item statistics, the user's own impressions) may be as old as the
cache's time to live. Degraded answers are not cached.
"""

import contextlib
import math
from collections.abc import Callable, Hashable
from functools import partial
from itertools import compress
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from recsys.contracts.errors import RecsysError, Unavailable
from recsys.contracts.request import ABSENT, Answer, Query
from recsys.contracts.state import EntityState
from serving.caching.cache import Cache
from serving.engine.runtime import Runtime

_NO_STATE = EntityState()
_TEXT_BYTES = 100  # Python's overhead of a string in a set
_LINE_BYTES = 700  # of one item of an answer: its line, its features, its part of the arrays


class Recommendation(Struct, frozen=True, kw_only=True):
    """One line of the list, the best first."""

    item_id: str
    score: float
    propensity: Annotated[float, Meta(description="probability that the policy shows it at this place")]
    channels: Annotated[list[str], Meta(description="recall channels that found it")]
    title: str
    categories: list[str]


class Served(Struct, frozen=True, eq=False):
    """An answer and its lines as the client sees them."""

    answer: Answer
    lines: list[Recommendation]
    cached: bool = False


class ResultCache:
    """Thread-safe."""

    def __init__(
        self,
        version_of: Callable[[str], str],
        max_bytes: int,
        ttl_s: float,
        refresh: Callable[[Callable[[], object]], object] = lambda job: None,
    ) -> None:
        """`version_of`: changes with the user's history; raises `Unavailable` when the store is away.
        `refresh`: runs a job in the background, or drops it: lists of users who ask repeatedly are renewed before they
        expire."""
        self.cache: Cache[Hashable, Served] = Cache(max_bytes, _weigh, ttl_s)
        self._version_of = version_of
        self._ttl_s = ttl_s
        self._refresh = refresh

    def answer(self, runtime: Runtime, query: Query) -> Served:
        """The cached answer under the query's own request id and time, or a new one. Either is logged as shown."""
        if query.explain or not self._ttl_s:
            return _make(runtime, query)
        try:
            key = self._key(runtime, query)
        except Unavailable:  # without the version a cached answer may be stale
            return _make(runtime, query)

        def make() -> tuple[Served, bool]:
            served = _bare(_make(runtime, query))
            return served, not served.answer.degraded

        due = partial(self._refresh, partial(self._renew, key, runtime, query))
        served = self.cache.get_or_make(key, make, due)
        if served.answer.query.request_id == query.request_id:
            return served
        asked = replace(served.answer.query, request_id=query.request_id, now_ms=query.now_ms)
        answer = replace(served.answer, query=asked)
        for stage in runtime.pipeline.side_effects:
            with contextlib.suppress(Unavailable):  # counted by the stage; the list is shown regardless
                stage.after(answer)
        return Served(answer, served.lines, cached=True)

    def _renew(self, key: Hashable, runtime: Runtime, query: Query) -> None:
        """Without a deadline: no request waits. If the user has acted meanwhile, nothing reads the key."""
        with contextlib.suppress(RecsysError):
            served = _bare(_make(runtime, replace(query, deadline_s=math.inf), shown=False))
            if not served.answer.degraded:
                self.cache.renew(key, served)

    def _key(self, runtime: Runtime, query: Query) -> Hashable:
        return (
            query.user_id,
            self._version_of(query.user_id),
            query.k,
            frozenset(query.context.items()),
            query.excluded_items,
            query.arm,
            runtime.path.text,  # an arm whose settings change in the file keeps its name
            runtime.bundle.manifest.version,
            runtime.live.revision,
        )


def _weigh(served: Served) -> int:
    """Approximate bytes. Exclusions and context count too: the client decides their size, and both are in the key."""
    query = served.answer.query
    texts = [*query.excluded_items, *query.context, *query.context.values()]
    return _LINE_BYTES * (1 + len(served.lines)) + sum(_TEXT_BYTES + len(text) for text in texts)


def _make(runtime: Runtime, query: Query, shown: bool = True) -> Served:
    answer = runtime.pipeline.answer(query, shown)
    return Served(answer, _lines(runtime, answer))


def _bare(served: Served) -> Served:
    """Without the user's state, which is many times as large as the list."""
    answer = replace(served.answer, query=replace(served.answer.query, user=_NO_STATE))
    return Served(answer, served.lines)


def _lines(runtime: Runtime, answer: Answer) -> list[Recommendation]:
    shown = answer.candidates
    lines = zip(
        map(runtime.catalogue.item, shown.rows.tolist()),
        shown.score.tolist(),
        answer.propensities.tolist(),
        (shown.ranks != ABSENT).tolist(),  # (k, channels)
        strict=True,
    )
    return [
        Recommendation(
            item_id=item.item_id,
            score=score,
            propensity=propensity,
            channels=list(compress(shown.channels, found)),
            title=item.title,
            categories=list(item.categories),
        )
        for item, score, propensity, found in lines
    ]
