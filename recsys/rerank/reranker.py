"""The selector: which of the ranked candidates are shown, in which order, and with which probability.

First the rules' pins take their places, and exploration reserves its own; the objective fills the other places greedily
under the caps; then each exploration place draws one of the best remaining candidates.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recsys.contracts.request import ABSENT, Candidates, Query, Rows, Selection
from recsys.contracts.types import Diversity, Exploring, Head
from recsys.items.catalogue import Catalogue
from recsys.native import core
from recsys.rerank.diversity import (
    DeterminantalPointProcess,
    MaximalMarginalRelevance,
    Objective,
    Relevance,
    SamenessFatigue,
    scaled,
    unit,
)
from recsys.rerank.exploration import (
    Exploration,
    drawn_by_thompson,
    drawn_uniformly,
    sampled_worth,
)
from recsys.rerank.greedy import Cap, greedy
from recsys.rerank.rules import RuleBook

_COMPILED = (Diversity.NONE, Diversity.MMR)
DeviationOf = Callable[[Rows, NDArray[np.float32], int], NDArray[np.float64]]


class RerankConfig(BaseModel):
    """How ranked candidates become a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    diversity: Diversity = Field(Diversity.MMR, description="none, mmr, dpp or fatigue.")
    strength: float = Field(
        0.3, gt=0, le=1, description="Weight of diversity against relevance; of mmr and dpp."
    )
    pool: int = Field(200, ge=1, description="Number of the best candidates considered.")
    per_category: int = Field(0, ge=0, description="Most items of one main category; 0: no cap.")
    per_creator: int = Field(0, ge=0, description="Most items of one creator; 0: no cap.")
    exploration: Exploration = Exploration()
    seed: int = Field(0, description="Of the draws; a request's draw depends on this and its id.")


@dataclass(frozen=True, eq=False)
class Reranker:
    """`recsys.pipeline.stages.Selector`.

    vectors_of: (n,) rows → (n, d) float32; zeros for an item without a vector.
    native: compiled code fills the list, if it knows the objective.
    sameness: learnt with the ranker; see `SamenessFatigue`.
    deviation_of: (n,) rows, their probabilities of a click, Unix milliseconds → (n,) standard deviations of the log
        odds. Without it, or without a ranker, Thompson's draws are uniform.
    """

    config: RerankConfig
    catalogue: Catalogue
    vectors_of: Callable[[Rows], NDArray[np.float32]]
    book: RuleBook | None = None
    native: bool = False
    sameness: float = 0.0
    deviation_of: DeviationOf | None = None
    name: str = "rerank"
    optional: bool = True

    def select(self, query: Query, candidates: Candidates) -> Selection:
        """A list of min(k, N). The propensity of a drawn item is the probability of its draw."""
        k = min(query.k, len(candidates))
        pins = self._pins(query, candidates, k)
        explored = [place for place in self.config.exploration.places if place < k and place not in pins]
        pool = np.arange(min(len(candidates), max(self.config.pool, k)))
        if pins:
            pool = np.union1d(pool, list(pins.values()))
        chosen = self._fill(candidates, pool, pins, [p for p in range(k) if p not in explored])
        propensities = np.ones(k, np.float32)
        if explored:
            drawn, probabilities = self._draw(query, candidates, set(chosen.values()), len(explored))
            chosen |= dict(zip(explored, drawn, strict=True))
            propensities[explored] = probabilities
        return Selection(np.array([chosen[place] for place in range(k)], np.int64), propensities)

    def _pins(self, query: Query, candidates: Candidates, k: int) -> dict[int, int]:
        """Place → candidate, for pins that may be shown. The first rule wins a place or an item."""
        pins: dict[int, int] = {}
        for rule in self.book.holding(query) if self.book else ():
            if rule.pin is None or rule.pin.position >= k or rule.pin.position in pins:
                continue
            at = np.flatnonzero(np.isin(candidates.rows, self.catalogue.rows_of([rule.pin.item])))
            if at.size and int(at[0]) not in pins.values():
                pins[rule.pin.position] = int(at[0])
        return pins

    def _fill(
        self, candidates: Candidates, pool: NDArray[np.int64], pins: dict[int, int], places: list[int]
    ) -> dict[int, int]:
        rows, scores = candidates.rows[pool], candidates.score[pool]
        click = candidates.scores.get(Head.CLICK)
        inside = {place: int(np.searchsorted(pool, position)) for place, position in pins.items()}
        if self.native and self.config.diversity in _COMPILED:
            chosen = self._compiled(rows, scores, places, inside)
        else:
            caps = [Cap(codes, most) for codes, most in self._caps(rows)]
            objective = self._objective(rows, scores, None if click is None else click[pool])
            chosen = greedy(objective, len(pool), places, caps, inside)
        return dict(zip(chosen, pool[list(chosen.values())].tolist(), strict=True))

    def _objective(
        self, rows: Rows, scores: NDArray[np.float32], click: NDArray[np.float32] | None
    ) -> Objective:
        if self.config.diversity is Diversity.FATIGUE and click is not None:
            return SamenessFatigue(scores, click, self.catalogue.main_category[rows], self.sameness)
        if self.config.diversity in (Diversity.NONE, Diversity.FATIGUE):
            return Relevance(scores)  # without a ranker there are no probabilities
        objective = (
            MaximalMarginalRelevance if self.config.diversity is Diversity.MMR else DeterminantalPointProcess
        )
        return objective(scaled(scores), unit(self.vectors_of(rows)), self.config.strength)

    def _compiled(
        self, rows: Rows, scores: NDArray[np.float32], places: list[int], pins: dict[int, int]
    ) -> dict[int, int]:
        by_score = self.config.diversity is Diversity.NONE
        list_ = core.greedy(
            relevance=scores if by_score else scaled(scores),
            vectors=np.empty((len(rows), 0), np.float32) if by_score else self.vectors_of(rows),
            diversity=self.config.strength,
            caps=self._caps(rows),
            places=places,
            pins=pins,
        )
        return dict(list_)

    def _caps(self, rows: Rows) -> list[tuple[NDArray[np.int32], int]]:
        """Codes of the candidates, and how many of one code a list may have."""
        caps = []
        if self.config.per_category:
            caps.append((self.catalogue.main_category[rows], self.config.per_category))
        if self.config.per_creator:
            caps.append((self.catalogue.creator[rows], self.config.per_creator))
        return caps

    def _draw(
        self, query: Query, candidates: Candidates, chosen: set[int], slots: int
    ) -> tuple[list[int], list[float]]:
        """Draw without replacement from the best remaining candidates: positions and their probabilities."""
        exploration, click = self.config.exploration, candidates.scores.get(Head.CLICK)
        left = np.setdiff1d(np.arange(len(candidates)), list(chosen))
        wanted = [c for c in exploration.channels if c in candidates.channels]
        if wanted:
            columns = [candidates.channels.index(channel) for channel in wanted]
            preferred = left[(candidates.ranks[left][:, columns] != ABSENT).any(axis=1)]
            left = preferred if len(preferred) >= slots else left
        pool = left[: max(exploration.pool, slots)]
        rng = _generator(self.config.seed, query.request_id)
        if exploration.draw is Exploring.UNIFORM or click is None or self.deviation_of is None:
            drawn, probabilities = drawn_uniformly(rng, len(pool), slots)
        else:
            deviation = self.deviation_of(candidates.rows[pool], click[pool], query.now_ms)
            worth = sampled_worth(rng, candidates.score[pool], click[pool], deviation)
            drawn, probabilities = drawn_by_thompson(rng, worth, slots, exploration.uniform)
        return pool[drawn].tolist(), probabilities


def _generator(seed: int, request_id: str) -> np.random.Generator:
    """The same draw for the same request, so that an answer can be reproduced from its log entry."""
    digest = hashlib.blake2b(f"{seed}\x1f{request_id}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
