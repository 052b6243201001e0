"""KuaiRand's rows with inputs that no other user enters: of the request, of the user herself, of the catalogue.

Counts over all users (how often a video was clicked) are left out, also where they are of earlier days: a guarantee by
user holds for what a model reads as well as for what it learns. The columns are those of the model benchmark
(`training.evaluation.kuairand`) that are left.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.models.blocks import numeric_statistics
from recsys.models.ranker import Ranker, RankerConfig, RankerData
from training.evaluation.kuairand.log import Kuairand, categorical, examples, load, split, video_fields
from training.privacy.randomness import Randomness
from training.private.loop import Plan, fit_private
from training.private.ranker import RankerLearner, RankerLoop
from training.private.statistics import Statistics, private_statistics
from training.ranker.dataset import RankExamples
from training.ranker.loop import LoopConfig, fit
from training.seeding import seed_everything

HISTORY = 20  # newest videos of a history; more cost time in every model
OWN_GROUPS = ("static", "session")
OF_OTHERS = ("i_watch", "i_long", "i_like", "i_lr", "i_kr", "a_lr")  # of "static": counts of all users


@dataclass(frozen=True)
class Rows:
    """The periods, and what a model stores of the catalogue.

    fields: (n_items + 1, n_fields). categorical: (column, size) of the columns that are codes. canaries: the last
    items that are invented; their vectors start at 0, so that what moves one is her training alone.
    """

    parts: Mapping[str, RankExamples]
    fields: NDArray[np.int64]
    field_sizes: tuple[int, ...]
    categorical: tuple[tuple[int, int], ...]
    canaries: int = 0

    @property
    def numeric(self) -> list[int]:
        codes = {column for column, _ in self.categorical}
        return [i for i in range(self.parts["train"].features.shape[1]) if i not in codes]

    def ranker(self, shape: RankerConfig, statistics: Statistics) -> Ranker:
        """A new one. `statistics`: of the columns `numeric`."""
        mean, scale, edges = statistics
        data = RankerData(
            n_items=len(self.fields) - 1,
            n_features=self.parts["train"].features.shape[1],
            mean=mean,
            scale=scale,
            edges=edges,
            fields=torch.from_numpy(self.fields),
            field_sizes=self.field_sizes,
            categorical=self.categorical,
        )
        ranker = Ranker(shape, data)
        if self.canaries:
            with torch.no_grad():
                ranker.get_parameter("item.weight")[-self.canaries :] = 0.0
        return ranker


def read(folder: Path) -> tuple[Rows, Rows]:
    """The rows with inputs that no other user enters, and with all of the benchmark's."""
    log = load(folder)
    own = [name for name in log.names(*OWN_GROUPS) if name not in OF_OTHERS]
    return _rows(log, tuple(own)), _rows(log, log.names())


def of_users(rows: RankExamples, users: NDArray[np.int64]) -> RankExamples:
    """The rows of these users."""
    return rows.take(np.isin(rows.users, users))


def plain(
    rows: Rows, shape: RankerConfig, loop: LoopConfig, users: NDArray[np.int64] | None = None
) -> Ranker:
    """Trained as usual, on these users or all; stopped early by their rows of the validation day."""
    train, validation = rows.parts["train"], rows.parts["validation"]
    if users is not None:
        train, validation = of_users(train, users), of_users(validation, users)
    seed_everything(loop.seed)
    numeric = torch.from_numpy(train.features[:, rows.numeric])
    ranker = rows.ranker(shape, numeric_statistics(numeric, shape.bins))
    fit(ranker, train, validation, loop)
    return ranker


def private(
    rows: Rows,
    shape: RankerConfig,
    loop: RankerLoop,
    planned: Plan,
    seed: int,
    randomness: Randomness,
    users: NDArray[np.int64] | None = None,
) -> Ranker:
    """Trained privately, on these users or all."""
    train = rows.parts["train"]
    if users is not None:
        train = of_users(train, users)
    numeric = train.features[:, rows.numeric]
    statistics = private_statistics(
        numeric,
        train.users,
        range(numeric.shape[1]),
        shape.bins,
        loop.statistics_noise,
        randomness,
    )
    seed_everything(seed)
    ranker = rows.ranker(replace(shape, dropout=0.0, item_dropout=0.0), statistics)
    fit_private(RankerLearner(ranker, train, loop), planned, randomness)
    return ranker


def _rows(log: Kuairand, names: tuple[str, ...]) -> Rows:
    every, facts = examples(log, names), video_fields(log)
    newest = {column: getattr(every, column)[:, -HISTORY:] for column in ("history", "types", "gaps")}
    every = replace(every, **newest)
    parts = {part: every.take(mask) for part, mask in split(log).items()}
    return Rows(parts, facts.codes, facts.sizes, categorical(log, names))
