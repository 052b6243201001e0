"""The kinds of stages of the request path.

A stage is any object with these members; nothing is inherited. Its `name` is unique in a pipeline and appears in
`degraded`, logs and metrics. When an `optional` stage fails or runs out of time, the request continues without it and
the answer names it. A failed required stage ends the request with `StageFailed`.

Stages are shared by all requests and run in several threads, so they hold no state of a request.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Answer, Candidates, Query, Rows, Selection


class Stage(Protocol):
    """The members of every stage."""

    @property
    def name(self) -> str: ...

    @property
    def optional(self) -> bool: ...


class QueryHydrator(Stage, Protocol):
    """Adds what is known of the user to the query."""

    def hydrate_query(self, query: Query) -> Query: ...


class Source(Stage, Protocol):
    """One recall channel; its name is the channel's."""

    def recall(self, query: Query) -> Rows:
        """(n,) int32 rows, best first, no repeats; empty when the channel has nothing for this user."""


class Merger(Stage, Protocol):
    """Merges the channels' results into one list of candidates."""

    def merge(self, recalled: Mapping[str, Rows]) -> Candidates: ...


class CandidateHydrator(Stage, Protocol):
    """Adds what scorers need to the candidates. Rows and their order must not change (checked)."""

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates: ...


class Filter(Stage, Protocol):
    """Decides what must not be shown, and why."""

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        """Reason → (N,) bool mask of the removed candidates. A candidate may have several reasons."""


class Scorer(Stage, Protocol):
    """Sets `scores` (heads), `score` (which determines the order), or both. Rows must not change (checked)."""

    def score(self, query: Query, candidates: Candidates) -> Candidates: ...


class Selector(Stage, Protocol):
    """Chooses the shown list: diversity, rules and exploration."""

    def select(self, query: Query, candidates: Candidates) -> Selection:
        """`candidates` come best first, with finite scores and without features."""


class SideEffect(Stage, Protocol):
    """Work after the answer is known, such as the impression log. It must queue, not wait."""

    def after(self, answer: Answer) -> None: ...
