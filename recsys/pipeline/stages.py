"""The kinds of stages of the request path, and what each leaves behind.

A stage is any object with these members; nothing is inherited. `name` is unique in a pipeline and is what
`degraded`, logs and metrics say. An `optional` stage may fail or run out of time: the request goes on without it
and says so. A required one ends the request with `StageFailed`.

Stages are shared by all requests and run in several threads: they hold no state of a request.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Answer, Candidates, Query, Rows, Selection


class Stage(Protocol):
    """What every stage has."""

    @property
    def name(self) -> str: ...

    @property
    def optional(self) -> bool: ...


class QueryHydrator(Stage, Protocol):
    """Adds to the query what is known of the user."""

    def hydrate_query(self, query: Query) -> Query: ...


class Source(Stage, Protocol):
    """One recall channel; its name is the channel's."""

    def recall(self, query: Query) -> Rows:
        """(n,) int32 rows, the best first, no repeats; empty when the channel has nothing for this user."""


class Merger(Stage, Protocol):
    """Makes one list of candidates of what the channels returned."""

    def merge(self, recalled: Mapping[str, Rows]) -> Candidates: ...


class CandidateHydrator(Stage, Protocol):
    """Adds to the candidates what scorers need. Rows and their order must stay (checked)."""

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates: ...


class Filter(Stage, Protocol):
    """Says what must not be shown, and why."""

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        """Reason → (N,) bool mask of what is removed for it. A candidate may have several reasons."""


class Scorer(Stage, Protocol):
    """Sets `scores` (heads), `score` (what the order follows), or both. Rows must stay (checked)."""

    def score(self, query: Query, candidates: Candidates) -> Candidates: ...


class Selector(Stage, Protocol):
    """Chooses the shown list; diversity, rules and exploration live here."""

    def select(self, query: Query, candidates: Candidates) -> Selection:
        """`candidates` come best first, with finite scores, and without features: those are for scorers."""


class SideEffect(Stage, Protocol):
    """Anything after the answer is known, such as the impression log. Must queue, not wait."""

    def after(self, answer: Answer) -> None: ...
