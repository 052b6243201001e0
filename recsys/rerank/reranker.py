"""The selector: which of the ranked candidates are shown, in which order, and with which probability.

In this order: pins of the rules; exploration slots are set aside; the other places are filled greedily by the
objective under the caps; each exploration slot draws one of the best candidates left over.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recsys.contracts.request import ABSENT, Candidates, Query, Rows, Selection
from recsys.contracts.types import Diversity
from recsys.items.catalogue import Catalogue
from recsys.rerank.diversity import (
    DeterminantalPointProcess,
    MaximalMarginalRelevance,
    Objective,
    Relevance,
    scaled,
    unit,
)
from recsys.rerank.greedy import Cap, greedy
from recsys.rerank.rules import RuleBook


class Exploration(BaseModel):
    """Places of the list whose item is drawn, each candidate of the pool with the same probability."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    places: tuple[int, ...] = Field(
        (), description="Places from 0 that explore; those beyond the list do not."
    )
    pool: int = Field(50, ge=1, description="How many of the best candidates left over can be drawn.")
    channels: tuple[str, ...] = Field(
        (), description="Draw only what these channels returned; empty: anything."
    )


class RerankConfig(BaseModel):
    """How a list is made of ranked candidates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    diversity: Diversity = Field(Diversity.MMR, description="none, mmr or dpp.")
    strength: float = Field(0.3, gt=0, le=1, description="Weight of diversity against relevance.")
    pool: int = Field(200, ge=1, description="How many of the best candidates are looked at.")
    per_category: int = Field(0, ge=0, description="Most items of one main category; 0: no cap.")
    per_creator: int = Field(0, ge=0, description="Most items of one creator; 0: no cap.")
    exploration: Exploration = Exploration()
    seed: int = Field(0, description="Of the draws; a request's draw follows from this and its id.")


class Reranker:
    """`recsys.pipeline.stages.Selector`."""

    def __init__(
        self,
        config: RerankConfig,
        catalogue: Catalogue,
        vectors_of: Callable[[Rows], NDArray[np.float32]],
        book: RuleBook | None = None,
        name: str = "rerank",
        optional: bool = True,
    ) -> None:
        """
        Args:
            vectors_of: (n,) rows → (n, d) float32; zeros for an item without a vector.
        """
        self.name = name
        self.optional = optional
        self._config = config
        self._catalogue = catalogue
        self._vectors_of = vectors_of
        self._book = book

    def select(self, query: Query, candidates: Candidates) -> Selection:
        """A list of min(k, N). The propensity of a drawn item is 1 / (size of what it was drawn from)."""
        k = min(query.k, len(candidates))
        pins = self._pins(query, candidates, k)
        explored = [place for place in self._config.exploration.places if place < k and place not in pins]
        pool = np.arange(min(len(candidates), max(self._config.pool, k)))
        if pins:
            pool = np.union1d(pool, list(pins.values()))
        chosen = self._fill(candidates, pool, pins, [p for p in range(k) if p not in explored])
        propensities = np.ones(k, np.float32)
        if explored:
            drawn, probability = self._draw(query, candidates, set(chosen.values()), len(explored))
            chosen |= dict(zip(explored, drawn, strict=True))
            propensities[explored] = probability
        return Selection(np.array([chosen[place] for place in range(k)], np.int64), propensities)

    def _pins(self, query: Query, candidates: Candidates, k: int) -> dict[int, int]:
        """Place → candidate, for pins that may be shown. Of two pins of a place or an item the first rule's holds."""
        pins: dict[int, int] = {}
        for rule in self._book.holding(query) if self._book else ():
            if rule.pin is None or rule.pin.position >= k or rule.pin.position in pins:
                continue
            at = np.flatnonzero(np.isin(candidates.rows, self._catalogue.rows_of([rule.pin.item])))
            if at.size and int(at[0]) not in pins.values():
                pins[rule.pin.position] = int(at[0])
        return pins

    def _fill(
        self, candidates: Candidates, pool: NDArray[np.int64], pins: dict[int, int], places: list[int]
    ) -> dict[int, int]:
        rows, scores = candidates.rows[pool], candidates.score[pool]
        inside = {place: int(np.searchsorted(pool, position)) for place, position in pins.items()}
        chosen = greedy(self._objective(rows, scores), len(pool), places, self._caps(rows), inside)
        return dict(zip(chosen, pool[list(chosen.values())].tolist(), strict=True))

    def _objective(self, rows: Rows, scores: NDArray[np.float32]) -> Objective:
        if self._config.diversity is Diversity.NONE:
            return Relevance(scores)
        objective = (
            MaximalMarginalRelevance if self._config.diversity is Diversity.MMR else DeterminantalPointProcess
        )
        return objective(scaled(scores), unit(self._vectors_of(rows)), self._config.strength)

    def _caps(self, rows: Rows) -> list[Cap]:
        caps = []
        if self._config.per_category:
            caps.append(Cap(self._catalogue.main_category[rows], self._config.per_category))
        if self._config.per_creator:
            caps.append(Cap(self._catalogue.creator[rows], self._config.per_creator))
        return caps

    def _draw(
        self, query: Query, candidates: Candidates, chosen: set[int], slots: int
    ) -> tuple[list[int], float]:
        """Draw without replacement from the best left over; so each of them is at each slot equally often."""
        left = np.setdiff1d(np.arange(len(candidates)), list(chosen))
        wanted = [c for c in self._config.exploration.channels if c in candidates.channels]
        if wanted:
            columns = [candidates.channels.index(channel) for channel in wanted]
            preferred = left[(candidates.ranks[left][:, columns] != ABSENT).any(axis=1)]
            left = preferred if len(preferred) >= slots else left
        pool = left[: max(self._config.exploration.pool, slots)]
        drawn = _generator(self._config.seed, query.request_id).choice(pool, slots, replace=False)
        return drawn.tolist(), 1 / len(pool)


def _generator(seed: int, request_id: str) -> np.random.Generator:
    """The same draw for the same request, so that an answer can be reproduced from its log."""
    digest = hashlib.blake2b(f"{seed}\x1f{request_id}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
