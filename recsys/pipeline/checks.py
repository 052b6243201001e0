"""What the pipeline demands of a stage's result. A violation raises, so the stage counts as failed."""

from collections.abc import Callable, Mapping

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.request import Candidates, Query, Selection
from recsys.pipeline.stages import Filter, Selector


def same_rows(
    stage: Callable[[Query, Candidates], Candidates], query: Query, before: Candidates
) -> Candidates:
    """A hydrator's or scorer's result: the same rows in the same order."""
    after = stage(query, before)
    if after.rows is not before.rows and not np.array_equal(before.rows, after.rows):
        raise ValueError(f"rows must keep length and order: {len(before)} candidates in, {len(after)} out")
    return after


def masks(stage: Filter, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
    """A filter's result: one bool per candidate and reason."""
    found = stage.remove(query, candidates)
    for reason, mask in found.items():
        if mask.dtype != np.bool_ or mask.shape != (len(candidates),):
            raise ValueError(f"{reason}: expected {len(candidates)} bool, got {mask.dtype} {mask.shape}")
    return found


def selection(stage: Selector, query: Query, candidates: Candidates) -> Selection:
    """A selector's result: at most k positions, each valid and used once, with a propensity each."""
    selected = stage.select(query, candidates)
    positions = selected.positions.tolist()
    if len(positions) > query.k or len(selected.propensities) != len(positions):
        n = len(selected.propensities)
        raise ValueError(f"{len(positions)} selected with {n} propensities, k {query.k}")
    if positions and not 0 <= min(positions) <= max(positions) < len(candidates):
        raise ValueError(f"selected a position outside the {len(candidates)} candidates")
    if len(set(positions)) != len(positions):
        raise ValueError("selected one candidate twice")
    return selected


def finite(candidates: Candidates) -> tuple[Candidates, NDArray[np.bool_]]:
    """Candidates with finite numbers everywhere, and an (N,) mask of those that had them before.

    A non-finite head becomes 0, a non-finite final score one less than the lowest finite one.
    """
    good = np.isfinite(candidates.score)
    for values in candidates.scores.values():
        good &= np.isfinite(values)
    if good.all():
        return candidates, good
    lowest = candidates.score[good].min() - np.float32(1) if good.any() else np.float32(0)
    heads = {head: np.where(good, values, np.float32(0)) for head, values in candidates.scores.items()}
    return replace(candidates, score=np.where(good, candidates.score, lowest), scores=heads), good
