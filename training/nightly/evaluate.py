"""`recsys evaluate nightly`: what a nightly update is worth, on a real log.

The small ranker is trained in full on the first days. Then each night one copy stays as it is, one is updated as
`recsys train nightly` does, and one is trained in full on all days so far; the next day, unseen by all, judges them.
KuaiRand's days 04-25 … 05-03: later ones read profiles that are not updated (docs/ranking.md).
"""

import copy
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from recsys.contracts.types import Head
from recsys.metrics import auc, gauc
from recsys.models.ranker import Ranker
from recsys.result import Goal, Result
from training.config import Config
from training.evaluation.kuairand.benchmark import LOOP, STUDENT, ranker_data_of
from training.evaluation.kuairand.log import examples, load
from training.nightly.ranker import NIGHT, continue_training
from training.ranker.dataset import RankExamples, temporal_split
from training.ranker.loop import fit, predict
from training.seeding import seed_everything

FULL_UNTIL, LAST_DAY = 20220428, 20220503
_VALIDATION = 0.1
KINDS = ("unchanged", "updated", "full")


class NightlyEvaluation(Config):
    """One evaluation."""

    data: Path = Field(description="Folder of the KuaiRand-Pure slice.")
    seed: int = Field(0, ge=0, description="The same seed and data give the same figures.")
    is_quick: bool = Field(False, description="Two nights, one epoch.")


def main(config: NightlyEvaluation, report: Callable[[str], None] = lambda line: None) -> Result:
    """Figures are means over the nights: `<kind>_click_auc`, `_click_gauc`, `_cpu_s` (training time per night).

    Raises:
        InvalidData: a file is missing.
    """
    torch.set_num_threads(1)
    data = load(config.data)
    rows = examples(data, data.names())
    days = [day for day in np.unique(data.date).tolist() if FULL_UNTIL <= day <= LAST_DAY]
    days = days[:3] if config.is_quick else days
    loop = LOOP.replace(seed=config.seed, epochs=1 if config.is_quick else LOOP.epochs)
    shape_data = ranker_data_of(data, rows.take(data.date <= FULL_UNTIL), data.names())

    def trained_in_full(until: int) -> tuple[Ranker, int]:
        """The ranker, and the time of its newest training row."""
        seed_everything(config.seed)
        ranker = Ranker(STUDENT, shape_data)
        train, validation = temporal_split(rows.take(data.date <= until), _VALIDATION)
        fit(ranker, train, validation, loop)
        return ranker, int(train.time_ms[-1])

    unchanged, until_ms = trained_in_full(FULL_UNTIL)
    updated = copy.deepcopy(unchanged)
    nights: list[dict[str, float]] = []
    for tonight, tomorrow in pairwise(days[1:]):
        began = time.process_time()
        new = rows.take((data.date <= tonight) & (rows.time_ms > until_ms))
        train, validation = temporal_split(new, _VALIDATION)
        continue_training(updated, train, validation, NIGHT.replace(seed=config.seed))
        until_ms = int(train.time_ms[-1])
        updated_s, began = time.process_time() - began, time.process_time()
        full, _ = trained_in_full(tonight)
        seconds = (0.0, updated_s, time.process_time() - began)
        test = rows.take(data.date == tomorrow)
        found: dict[str, float] = {}
        for kind, ranker, cpu_s in zip(KINDS, (unchanged, updated, full), seconds, strict=True):
            found |= {f"{kind}_{name}": value for name, value in _judged(ranker, test).items()}
            found[f"{kind}_cpu_s"] = cpu_s
        report(f"{tomorrow}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        nights.append(found)
    figures = {name: float(np.mean([night[name] for night in nights])) for name in nights[0]}
    figures["nights"] = len(nights)
    figures["updated_over_full_click_auc"] = figures["updated_click_auc"] - figures["full_click_auc"]
    # the loss that the ladder allows its student, too
    goals = {"updated_over_full_click_auc": Goal(">=", -0.002)}
    return Result("evaluate nightly", config.seed, figures, goals)


def _judged(ranker: Ranker, test: RankExamples) -> dict[str, float]:
    happened, scores = test.label(Head.CLICK).astype(np.int64), predict(ranker, test)[Head.CLICK]
    return {"click_auc": auc(happened, scores), "click_gauc": gauc(happened, scores, test.users)}
