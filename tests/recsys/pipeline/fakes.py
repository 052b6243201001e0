"""Fake stages, and a clock that stands still."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.request import Answer, Candidates, Query, Rows, Selection
from recsys.pipeline.pipeline import Pipeline
from recsys.recall.merge import QuotaMerger


@dataclass
class Fake:
    """Any kind of stage: `act` is what it does; an exception instance is raised instead."""

    name: str
    act: Any = None
    optional: bool = True
    calls: int = field(default=0)

    def _do(self, *arguments: Any) -> Any:
        self.calls += 1
        if isinstance(self.act, Exception):
            raise self.act
        return self.act(*arguments)

    def hydrate_query(self, query: Query) -> Query:
        return self._do(query)  # type: ignore[no-any-return]

    def recall(self, query: Query) -> Rows:
        return self._do(query)  # type: ignore[no-any-return]

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates:
        return self._do(query, candidates)  # type: ignore[no-any-return]

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        return self._do(query, candidates)  # type: ignore[no-any-return]

    def score(self, query: Query, candidates: Candidates) -> Candidates:
        return self._do(query, candidates)  # type: ignore[no-any-return]

    def select(self, query: Query, candidates: Candidates) -> Selection:
        return self._do(query, candidates)  # type: ignore[no-any-return]

    def after(self, answer: Answer) -> None:
        self._do(answer)


def rows(*values: int) -> Rows:
    return np.array(values, np.int32)


def source(name: str, *values: int, optional: bool = True) -> Fake:
    return Fake(name, lambda query: rows(*values), optional)


def scorer(name: str, score_of: Mapping[int, float], optional: bool = True) -> Fake:
    def score(query: Query, candidates: Candidates) -> Candidates:
        return replace(
            candidates, score=np.array([score_of[r] for r in candidates.rows.tolist()], np.float32)
        )

    return Fake(name, score, optional)


def top_k(query: Query, candidates: Candidates) -> Selection:
    n = min(query.k, len(candidates))
    return Selection(np.arange(n), np.ones(n, np.float32))


def make(pool: ThreadPoolExecutor | None, **fields: Any) -> Pipeline:
    """A pipeline with one source, with `fields` of `Pipeline` replaced."""
    defaults: dict[str, Any] = {
        "query_hydrators": [],
        "sources": [source("a", 0, 1, 2, 3)],
        "merger": QuotaMerger({}),
        "candidate_hydrators": [],
        "filters": [],
        "scorers": [],
        "selector": Fake("top_k", top_k),
        "pool": pool,
        "clock": lambda: 0.0,
    }
    return Pipeline(**(defaults | fields))


def no_channels(found: Rows) -> Candidates:
    """Candidates without channels, all with score 0."""
    return Candidates(found, (), np.empty((len(found), 0), np.int16), np.zeros(len(found), np.float32))
