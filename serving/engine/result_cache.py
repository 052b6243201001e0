"""Answers by user, context and history version: a list is reused while nothing that the user did could change it.

The key holds the version of the user's history in the store, so the first request after a click has been applied
misses: a click never gets a stale list, whichever process took it. What else moves (item statistics, the user's
own impressions) may be as old as the cache's time to live. Degraded answers are not kept.
"""

import contextlib
import math
from collections.abc import Callable, Hashable
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from recsys.contracts.errors import RecsysError, Unavailable
from recsys.contracts.request import Answer, Query
from recsys.contracts.state import EntityState
from serving.api.wire import Recommendation
from serving.caching.cache import Cache
from serving.engine.runtime import Runtime

_NOT_KEPT = EntityState()
_TEXT_BYTES = 100  # Python's own part of a text in a set
_LINE_BYTES = 700  # of one item of an answer: its line, its features, its part of the arrays


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
        spare: Callable[[Callable[[], object]], object] = lambda job: None,
    ) -> None:
        """
        Args:
            version_of: changes with the user's history; raises `Unavailable` when the store is away.
            spare: does a job when there is time to spare, or never: lists of users who ask again and again are made
                anew before they expire.
        """
        self.cache: Cache[Hashable, Served] = Cache(max_bytes, _weigh, ttl_s)
        self._version_of = version_of
        self._ttl_s = ttl_s
        self._spare = spare

    def answer(self, runtime: Runtime, query: Query) -> Served:
        """The cached answer under the query's own request id and time, or a new one. Either is logged as shown."""
        if query.explain or not self._ttl_s:
            return _make(runtime, query)
        try:
            key = self._key(runtime, query)
        except Unavailable:  # without the version nothing says that a cached answer still holds
            return _make(runtime, query)

        def make() -> tuple[Served, bool]:
            served = _bare(_make(runtime, query))
            return served, not served.answer.degraded

        due = partial(self._spare, partial(self._renew, key, runtime, query))
        served = self.cache.get_or_make(key, make, due)
        if served.answer.query.request_id == query.request_id:
            return served
        again = replace(served.answer.query, request_id=query.request_id, now_ms=query.now_ms)
        answer = replace(served.answer, query=again)
        for stage in runtime.pipeline.side_effects:
            with contextlib.suppress(Unavailable):  # counted by the stage; the list is shown all the same
                stage.after(answer)
        return Served(answer, served.lines, cached=True)

    def _renew(self, key: Hashable, runtime: Runtime, query: Query) -> None:
        """With all the time it takes: nobody waits. If the user has done something since, nobody asks for the key."""
        unhurried = replace(query, deadline_s=math.inf)
        with contextlib.suppress(RecsysError):
            served = _bare(_make(runtime, unhurried, shown=False))
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
    """Bytes, about: a client decides how much it excludes and what it says of the context, and both are in the key."""
    query = served.answer.query
    texts = [*query.excluded_items, *query.context, *query.context.values()]
    return _LINE_BYTES * (1 + len(served.lines)) + sum(_TEXT_BYTES + len(text) for text in texts)


def _make(runtime: Runtime, query: Query, shown: bool = True) -> Served:
    answer = runtime.pipeline.answer(query, shown)
    return Served(answer, _lines(runtime, answer))


def _bare(served: Served) -> Served:
    """Without the user's whole state, which is many times as large as the list."""
    answer = replace(served.answer, query=replace(served.answer.query, user=_NOT_KEPT))
    return Served(answer, served.lines)


def _lines(runtime: Runtime, answer: Answer) -> list[Recommendation]:
    shown = answer.candidates
    found_by = shown.ranks >= 0  # (k, channels)
    lines = []
    for row, score, propensity, found in zip(
        shown.rows.tolist(),
        shown.score.tolist(),
        answer.propensities.tolist(),
        found_by.tolist(),
        strict=True,
    ):
        item = runtime.catalogue.item(row)
        lines.append(
            Recommendation(
                item_id=item.item_id,
                score=score,
                propensity=propensity,
                channels=[name for name, yes in zip(shown.channels, found, strict=True) if yes],
                title=item.title,
                categories=list(item.categories),
            )
        )
    return lines
