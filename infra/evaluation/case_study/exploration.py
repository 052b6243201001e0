"""Off-policy estimates from the propensities that serving logged in the A/B test, and the truth. *Simulated.*

`after` draws the last position of a list from the best remaining candidates. What would it earn there if it drew only
from the best two? IPS, SNIPS and doubly robust answer from the log; the world knows the true click probability of each
item that could have been drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.case_study.section import Sheet
from recsys.contracts.request import Answer
from recsys.contracts.types import Head
from recsys.experiments.off_policy import Estimate, Log, doubly_robust, ips, snips
from recsys.ranking.uncertainty import ItemUncertainty
from recsys.rerank.exploration import Exploration

Floats = NDArray[np.float64]
BEST = 2  # the evaluated policy draws from the best two


@dataclass(frozen=True)
class Draw:
    """One explored position. `pool` (n,): catalogue rows, the best first; `predicted` (n,): the ranker's P(click);
    `value` (n,): what it orders by; `deviation` (n,): of the log odds of a click, 0 where it is not known."""

    place: int
    pool: NDArray[np.int32]
    drawn: int  # index into the pool
    propensity: float  # as served and logged
    predicted: Floats
    value: Floats
    deviation: Floats


@dataclass(frozen=True)
class Played:
    """A draw and its outcome. `user`: the visitor's row; `truth` (n,): probability of a click on each of the pool at
    that position."""

    user: int
    draw: Draw
    clicked: bool
    truth: Floats


def draw_of(
    answer: Answer, exploration: Exploration, uncertainty: ItemUncertainty | None = None
) -> Draw | None:
    """The explored position of an answer in explain mode; None where the list is too short for it."""
    shown, explanation = answer.candidates.rows, answer.explanation
    if explanation is None or len(exploration.places) != 1 or exploration.places[0] >= len(shown):
        return None
    place = exploration.places[0]
    ranked = explanation.ranked
    left = ranked.take(~np.isin(ranked.rows, np.delete(shown, place)))
    pool = left.take(np.arange(min(exploration.pool, len(left))))
    click = pool.scores[Head.CLICK]
    deviation = uncertainty.deviation(pool.rows, click, answer.query.now_ms) if uncertainty else None
    return Draw(
        place,
        pool.rows,
        int(np.flatnonzero(pool.rows == shown[place])[0]),
        float(answer.propensities[place]),
        click.astype(np.float64),
        pool.score.astype(np.float64),
        np.zeros(len(click)) if deviation is None else deviation,
    )


def off_policy(played: Sequence[Played]) -> tuple[Sheet, dict[str, float]]:
    """What drawing from the best `BEST` would earn: three estimates, their errors, and the truth."""
    played = [p for p in played if len(p.draw.pool) >= BEST]
    title = "Off-policy from logged propensities (simulated)"
    if len(played) < 2:
        return Sheet(title, [], [], "Too few explored lists."), {}
    new = np.array([p.draw.drawn < BEST for p in played]) / BEST
    reward = np.array([p.clicked for p in played], np.float64)
    log = Log(reward, np.array([p.draw.propensity for p in played]), new)
    # a crude reward model: the ranker's probability, scaled to the clicks at that position
    taken = np.array([p.draw.predicted[p.draw.drawn] for p in played])
    scale = reward.mean() / taken.mean()
    best = np.array([p.draw.predicted[:BEST].mean() for p in played])
    found: dict[str, Estimate] = {
        "IPS": ips(log),
        "SNIPS": snips(log),
        "doubly robust": doubly_robust(log, scale * taken, scale * best),
    }
    truth = float(np.mean([p.truth[:BEST].mean() for p in played]))
    lines: list[list[str | float]] = [["truth", truth, "", ""]]
    data = {"truth": truth, "logged": float(reward.mean()), "lists": float(len(played))}
    for name, estimate in found.items():
        span, off = f"{estimate.low:.4f} to {estimate.high:.4f}", f"{estimate.value / truth - 1:+.1%}"
        lines.append([name, estimate.value, span, off])
        data |= {name: estimate.value, f"{name} low": estimate.low, f"{name} high": estimate.high}
    note = (
        f"{len(played)} lists whose position {played[0].draw.place + 1} was drawn from {len(played[0].draw.pool)};"
        f" logged clicks there: {reward.mean():.4f} per list. Question: clicks if it were drawn from the best {BEST}."
    )
    return Sheet(title, ["estimate", "clicks per list", "95 % interval", "off by"], lines, note), data
