"""The request path: one list of stages that reads as the architecture diagram.

    query hydrators → recall sources (parallel) → merge → candidate hydrators → filters → scorers → selector
    → side effects

Composing one (serving does, in `serving.assembly`):

    pipeline = Pipeline(
        query_hydrators=[UserHydrator(store), HistoryHydrator(catalogue)],
        sources=[TwoTowerSource(...), ItemToItemSource(...), PopularSource(...)],
        merger=QuotaMerger({"two_tower": 200, "popular": 50}, limit=500),
        candidate_hydrators=[FeatureHydrator(...)],
        filters=[SeenFilter(), ...],
        scorers=[OnnxScorer(...), ValueModel(...)],
        selector=Reranker(...),
        side_effects=[ImpressionLog(...)],
        pool=ThreadPoolExecutor(8),
    )
    answer = pipeline.answer(Query("r1", "u1", k=20, now_ms=..., deadline_s=time.monotonic() + 0.1))
    answer.candidates.rows, answer.propensities, answer.degraded

Time: optional stages stop counting when the query's deadline has passed, but side effects always happen. Hydrators of
the query and sources share the first `recall_share` of the time, so that ranking keeps the rest. With a pool they run
side by side and can time out; without one they run one after the other in the request's thread and, like the later
stages, are only skipped as a whole.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig, StageFailed
from recsys.contracts.request import Answer, Candidates, Explanation, Query, Rows, Selection
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

GIVEN = "given"  # the channel of candidates that the caller brought


@dataclass(frozen=True)
class Pipeline:
    """The stages, composed once and shared by all requests.

    pool: where query hydrators and sources run; it belongs to whoever made it. None: in the request's own thread,
    which is quicker where a channel takes some hundred microseconds and holds Python's lock most of that time.
    """

    query_hydrators: Sequence[QueryHydrator]
    sources: Sequence[Source]
    merger: Merger
    candidate_hydrators: Sequence[CandidateHydrator]
    filters: Sequence[Filter]
    scorers: Sequence[Scorer]
    selector: Selector
    pool: Executor | None = None
    side_effects: Sequence[SideEffect] = ()
    recall_share: float = 0.6
    clock: Callable[[], float] = field(default=time.monotonic)

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
            shown: False: nobody will see the list now, so it has no side effects.

        Raises:
            StageFailed: a required stage failed; it carries the outcomes so far.
        """
        now = self.clock()
        recall_ends_s = now + self.recall_share * (query.deadline_s - now)
        trace = Trace(query.deadline_s, self.clock)
        query = self._hydrate_query(query, trace, recall_ends_s)
        recalled = self._recall(query, trace, recall_ends_s)
        candidates = self._merge(recalled, trace)
        candidates = self._hydrate(query, candidates, trace)
        candidates, removed = self._filter(query, candidates, trace)
        candidates, order, finite = self._score(query, candidates, trace)
        # the features of what is not shown are left where they are: most of a candidate's bytes
        selection = self._select(query, candidates.without_features().take(order), finite, trace)
        answer = Answer(
            query,
            candidates.take(order[selection.positions]),
            selection.propensities,
            tuple(trace.outcomes),
            Explanation(recalled, removed, candidates.take(order)) if query.explain else None,
        )
        return self._after(answer, trace) if shown else answer

    def rank(self, query: Query, rows: Rows) -> Answer:
        """Order the caller's candidates, all of them: hydrators and scorers only. Without a scorer they keep the
        caller's order. `query.k` is not read; nothing is filtered, rearranged or logged as shown.

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

    def _recall(self, query: Query, trace: Trace, until_s: float) -> dict[str, Rows]:
        calls = [(source, partial(source.recall, query)) for source in self.sources]
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
            call = partial(_same_rows, stage.hydrate, query, candidates)
            hydrated = trace.run(stage, "candidate_hydrator", len(candidates), call, count_out=len)
            candidates = candidates if hydrated is None else hydrated
        return candidates

    def _filter(
        self, query: Query, candidates: Candidates, trace: Trace
    ) -> tuple[Candidates, dict[str, dict[str, Rows]]]:
        removed: dict[str, dict[str, Rows]] = {}
        for stage in self.filters:
            call = partial(_masks, stage, query, candidates)
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
        """Scored candidates, their order, the best first, and how many have finite scores; the others come last."""
        finite = np.ones(len(candidates), bool)
        for stage in self.scorers:
            call = partial(_same_rows, stage.score, query, candidates)
            scored = trace.run(stage, "scorer", len(candidates), call, count_out=len)
            if scored is not None:
                candidates, good = _replace_non_finite(scored)
                finite &= good
                trace.amend(non_finite=len(good) - int(np.count_nonzero(good)))
        n = int(np.count_nonzero(finite))
        worst_first = candidates.score if n == len(finite) else np.where(finite, candidates.score, -np.inf)
        order = np.argsort(-worst_first, kind="stable")  # ties keep the order of recall
        return candidates, order, n

    def _select(self, query: Query, candidates: Candidates, finite: int, trace: Trace) -> Selection:
        """The selector sees finite scores only; what sank fills up the list when there is too little else."""
        good = candidates if finite == len(candidates) else candidates.take(np.arange(finite))
        call = partial(_selection, self.selector, query, good)
        selection = trace.run(self.selector, "selector", len(candidates), call)
        if selection is None:
            selection = _certain(np.arange(min(query.k, finite)))
        if query.k > finite:
            sunk = _certain(np.arange(finite, min(query.k, len(candidates))))
            selection = Selection(
                np.concatenate([selection.positions, sunk.positions]),
                np.concatenate([selection.propensities, sunk.propensities]),
            )
        trace.amend(count_out=len(selection.positions))
        return selection

    def _after(self, answer: Answer, trace: Trace) -> Answer:
        """Side effects happen however late it is: a list that is shown is logged."""
        for stage in self.side_effects:
            call = partial(stage.after, answer)
            trace.run(stage, "side_effect", len(answer.candidates), call, late_too=True)
        return replace(answer, outcomes=tuple(trace.outcomes))


def _same_rows(
    stage: Callable[[Query, Candidates], Candidates], query: Query, before: Candidates
) -> Candidates:
    after = stage(query, before)
    if after.rows is not before.rows and not np.array_equal(before.rows, after.rows):
        raise ValueError(f"rows must keep length and order: {len(before)} candidates in, {len(after)} out")
    return after


def _masks(stage: Filter, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
    masks = stage.remove(query, candidates)
    for reason, mask in masks.items():
        if mask.dtype != np.bool_ or mask.shape != (len(candidates),):
            raise ValueError(
                f"{reason}: a mask of {len(candidates)} bool is needed, got {mask.dtype} {mask.shape}"
            )
    return masks


def _selection(stage: Selector, query: Query, candidates: Candidates) -> Selection:
    selection = stage.select(query, candidates)
    positions = selection.positions.tolist()
    if len(positions) > query.k or len(selection.propensities) != len(positions):
        raise ValueError(
            f"{len(positions)} selected with {len(selection.propensities)} propensities, k {query.k}"
        )
    if positions and not 0 <= min(positions) <= max(positions) < len(candidates):
        raise ValueError(f"selected a position outside the {len(candidates)} candidates")
    if len(set(positions)) != len(positions):
        raise ValueError("selected one candidate twice")
    return selection


def _certain(positions: NDArray[np.int64]) -> Selection:
    return Selection(positions, np.ones(len(positions), np.float32))


def _replace_non_finite(candidates: Candidates) -> tuple[Candidates, NDArray[np.bool_]]:
    """Finite numbers everywhere, and an (N,) mask of the candidates that had them before.

    A head's value becomes 0, the final score one less than the lowest finite one.
    """
    good = np.isfinite(candidates.score)
    for values in candidates.scores.values():
        good &= np.isfinite(values)
    if good.all():
        return candidates, good
    lowest = candidates.score[good].min() - np.float32(1) if good.any() else np.float32(0)
    heads = {head: np.where(good, values, np.float32(0)) for head, values in candidates.scores.items()}
    return replace(candidates, score=np.where(good, candidates.score, lowest), scores=heads), good
