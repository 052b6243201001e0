"""The request path: one list of stages, which is the architecture diagram.

    query hydrators → recall sources (parallel) → merger → candidate hydrators → filters → scorers → selector
    → side effects

`serving.engine` composes the one that is served.

Deadline: after it, optional stages are skipped; side effects always run. Query hydrators and sources share the first
`recall_share` of the time, so that ranking has the rest. With a pool they can time out; without one they run in the
request's thread and, like the later stages, are only skipped as a whole.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import structlog
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig, StageFailed
from recsys.contracts.request import ELIGIBILITY, Answer, Candidates, Explanation, Query, Rows, Selection
from recsys.pipeline import checks
from recsys.pipeline.compiled_recall import CompiledCandidates, CompiledRecall
from recsys.pipeline.stages import (
    CandidateHydrator,
    Filter,
    Merger,
    QueryHydrator,
    Scorer,
    Selector,
    SideEffect,
    Source,
    Stage,
)
from recsys.pipeline.trace import Trace

_log = structlog.get_logger(__name__)
GIVEN = "given"  # the channel of candidates that the caller provided


class _Gathered(NamedTuple):
    """Candidates with features, and what an explanation shows: channel → rows, filter → reason → rows."""

    recalled: Mapping[str, Rows]
    candidates: Candidates
    removed: Mapping[str, Mapping[str, Rows]]
    compiled: bool = False


@dataclass(frozen=True)
class Pipeline:
    """The stages in the order of a request. Composed once, shared by all requests.

    compiled: stands in for the sources that read tables, the merger and the first filters; the stages answer what it
    cannot.
    pool: runs query hydrators and sources; its creator closes it. None: they run in the request's own thread, which is
    faster where a channel takes a few hundred microseconds and holds Python's lock most of that time.
    """

    query_hydrators: Sequence[QueryHydrator]  # the user's state, history, attributes
    sources: Sequence[Source]  # one recall channel each
    merger: Merger  # all channels → one list of candidates
    candidate_hydrators: Sequence[CandidateHydrator]  # features
    filters: Sequence[Filter]  # what must not be shown
    scorers: Sequence[Scorer]  # the ranker, then boosts and discounts
    selector: Selector  # the reranker: candidates → the shown list
    side_effects: Sequence[SideEffect] = ()  # the impression log
    compiled: CompiledRecall | None = None
    pool: Executor | None = None
    recall_share: float = 0.6
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InvalidConfig(f"stages need different names, repeated: {', '.join(repeated)}")
        if not 0 < self.recall_share <= 1:
            raise InvalidConfig(f"recall_share {self.recall_share}: must be in (0, 1]")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every stage, in the order of the diagram."""
        return (
            *self.query_hydrators,
            *self.sources,
            self.merger,
            *self.candidate_hydrators,
            *self.filters,
            *self.scorers,
            self.selector,
            *self.side_effects,
        )

    def answer(self, query: Query, shown: bool = True) -> Answer:
        """Run every stage.

        Args:
            shown: False: the list is not shown now, so it has no side effects.

        Raises:
            StageFailed: a required stage failed; it carries the outcomes so far.
        """
        now = self.clock()
        recall_ends_s = now + self.recall_share * (query.deadline_s - now)
        trace = Trace(query.deadline_s, self.clock)
        query = self._hydrate_query(query, trace, recall_ends_s)
        gathered = self._gather(query, trace, recall_ends_s)
        candidates, order, finite = self._score(query, gathered.candidates, trace)
        # reordering without features is cheap: they are most of a candidate's bytes
        selection = self._select(query, candidates.without_features().take(order), finite, trace)
        ranked = candidates.take(order) if query.explain or query.for_device else None
        answer = Answer(
            query,
            candidates.take(order[selection.positions]),
            selection.propensities,
            tuple(trace.outcomes),
            Explanation(gathered.recalled, {ELIGIBILITY: query.ineligible, **gathered.removed}, ranked)
            if query.explain and ranked
            else None,
            gathered.compiled,
            ranked if query.for_device else None,
        )
        return self._after(answer, trace) if shown else answer

    def rank(self, query: Query, rows: Rows) -> Answer:
        """Order all of the caller's candidates by hydrators and scorers alone; without a scorer they keep their order.

        `query.k` is ignored; nothing is filtered, reranked or logged as shown.

        Args:
            rows: (N,) int32, no repeats.

        Raises:
            StageFailed: a required stage failed.
        """
        trace = Trace(query.deadline_s, self.clock)
        query = self._hydrate_query(query, trace, query.deadline_s)
        place = np.arange(len(rows))
        candidates = Candidates(rows, (GIVEN,), place[:, None].astype(np.int16), -place.astype(np.float32))
        candidates = self._hydrate(query, candidates, trace)
        candidates, order, _ = self._score(query, candidates, trace)
        return Answer(query, candidates.take(order), np.ones(len(rows), np.float32), tuple(trace.outcomes))

    def _hydrate_query(self, query: Query, trace: Trace, until_s: float) -> Query:
        for stage in self.query_hydrators:
            call = partial(stage.hydrate_query, query)
            hydrated = trace.run_all(self.pool, "query_hydrator", [(stage, call)], until_s)
            query = hydrated.get(stage.name, query)
        return query

    def _gather(self, query: Query, trace: Trace, until_s: float) -> _Gathered:
        """What may be shown to this user, with features. The stages themselves answer where there is no compiled code,
        and requests that want an explanation, are late, or for which the call fails."""
        first, names = len(trace.outcomes), [source.name for source in self.sources]
        compiled = None if query.explain else self.compiled
        recalled = self._recall(compiled.given, query, trace, until_s) if compiled else {}
        if compiled and self.clock() < until_s and (found := _tried(compiled, query, recalled, trace)):
            trace.outcomes += found.channels
            trace.arrange(first, names)
            trace.outcomes += found.outcomes
            candidates = self._hydrate(query, found.candidates, trace)
            filters = self.filters[compiled.n_filters :]
            return _Gathered({}, *self._filter(query, candidates, trace, filters), compiled=True)
        others = [source for source in self.sources if not compiled or source.name in compiled.own]
        recalled |= self._recall(others, query, trace, until_s)
        trace.arrange(first, names)
        recalled = {name: recalled[name] for name in names if name in recalled}
        candidates = self._hydrate(query, self._merge(recalled, trace), trace)
        return _Gathered(recalled, *self._filter(query, candidates, trace, self.filters))

    def _recall(
        self, sources: Sequence[Source], query: Query, trace: Trace, until_s: float
    ) -> dict[str, Rows]:
        calls = [(source, partial(source.recall, query)) for source in sources]
        return trace.run_all(self.pool, "source", calls, until_s, count_out=len)

    def _merge(self, recalled: Mapping[str, Rows], trace: Trace) -> Candidates:
        found = sum(map(len, recalled.values()))
        call = partial(self.merger.merge, recalled)
        merged = trace.run(self.merger, "merger", found, call, count_out=len)
        if merged is None:
            raise StageFailed(self.merger.name, "a merger cannot be optional", tuple(trace.outcomes))
        return merged

    def _hydrate(self, query: Query, candidates: Candidates, trace: Trace) -> Candidates:
        for stage in self.candidate_hydrators:
            call = partial(checks.same_rows, stage.hydrate, query, candidates)
            hydrated = trace.run(stage, "candidate_hydrator", len(candidates), call, count_out=len)
            candidates = candidates if hydrated is None else hydrated
        return candidates

    def _filter(
        self, query: Query, candidates: Candidates, trace: Trace, filters: Sequence[Filter]
    ) -> tuple[Candidates, dict[str, dict[str, Rows]]]:
        removed: dict[str, dict[str, Rows]] = {}
        for stage in filters:
            call = partial(checks.masks, stage, query, candidates)
            masks = trace.run(stage, "filter", len(candidates), call)
            if masks is None:
                continue
            counts = {reason: int(np.count_nonzero(mask)) for reason, mask in masks.items()}
            if query.explain:
                removed[stage.name] = {reason: candidates.rows[mask] for reason, mask in masks.items()}
            if any(counts.values()):
                candidates = candidates.take(~np.logical_or.reduce([*masks.values()]))
            trace.amend(count_out=len(candidates), removed=counts)
        return candidates, removed

    def _score(
        self, query: Query, candidates: Candidates, trace: Trace
    ) -> tuple[Candidates, NDArray[np.intp], int]:
        """Scored candidates, their order, best first, and the number with finite scores; the others come last."""
        finite = np.ones(len(candidates), bool)
        for stage in self.scorers:
            call = partial(checks.same_rows, stage.score, query, candidates)
            scored = trace.run(stage, "scorer", len(candidates), call, count_out=len)
            if scored is not None:
                candidates, good = checks.finite(scored)
                finite &= good
                trace.amend(non_finite=len(good) - int(np.count_nonzero(good)))
        n = int(np.count_nonzero(finite))
        score = candidates.score if n == len(finite) else np.where(finite, candidates.score, -np.inf)
        order = np.argsort(-score, kind="stable")  # ties keep the order of recall
        return candidates, order, n

    def _select(self, query: Query, candidates: Candidates, finite: int, trace: Trace) -> Selection:
        """The selector sees finite scores only; the other candidates fill up a list that would be too short."""
        good = candidates if finite == len(candidates) else candidates.take(np.arange(finite))
        call = partial(checks.selection, self.selector, query, good)
        selection = trace.run(self.selector, "selector", len(candidates), call)
        if selection is None:
            selection = _certain(np.arange(min(query.k, finite)))
        if query.k > finite:
            rest = _certain(np.arange(finite, min(query.k, len(candidates))))
            selection = Selection(
                np.concatenate([selection.positions, rest.positions]),
                np.concatenate([selection.propensities, rest.propensities]),
            )
        trace.amend(count_out=len(selection.positions))
        return selection

    def _after(self, answer: Answer, trace: Trace) -> Answer:
        """Side effects run even after the deadline: a list that is shown is logged."""
        for stage in self.side_effects:
            call = partial(stage.after, answer)
            trace.run(stage, "side_effect", len(answer.candidates), call, late_too=True)
        return replace(answer, outcomes=tuple(trace.outcomes))


def _tried(
    compiled: CompiledRecall, query: Query, given: Mapping[str, Rows], trace: Trace
) -> CompiledCandidates | None:
    try:
        return compiled.gather(query, given, trace.elapsed_ms)
    except Exception as error:
        _warn(repr(error))
        return None


@lru_cache(maxsize=64)  # each error once: it may come with every request
def _warn(error: str) -> None:
    _log.warning("the compiled recall fails: the stages answer", error=error)


def _certain(positions: NDArray[np.int64]) -> Selection:
    return Selection(positions, np.ones(len(positions), np.float32))
