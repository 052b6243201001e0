"""What the compression ladder stands on: synthetic ids at the case study's size, or the lake's own examples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import Item
from recsys.items.item_table import read_items
from recsys.models.encoding import OFFSETS
from recsys.models.ranker import RankerConfig, RankerData
from recsys.ranking.taste import Taste
from training.compression.synthetic import LadderData, make
from training.ranker.dataset import RankExamples, item_fields, read_examples
from training.ranker.fit_taste import TasteOffsets, learn_taste
from training.ranker.train import ranker_data, ranker_warm_start
from training.warm_start import WarmStart

TRAIN, VALIDATION = 0.75, 0.10  # shares of the rows, by time; the rest is the test


@dataclass(frozen=True)
class LadderInput:
    """The student sees `student_data`: the teacher's, with cheaper item fields where they are many."""

    train: RankExamples
    validation: RankExamples
    test: RankExamples
    teacher_data: RankerData
    student_data: RankerData
    warm_start: WarmStart | None = None  # of the lake's; what a night's update needs
    taste: Taste | None = None  # the last features are its offsets

    def shape(self, wanted: RankerConfig) -> RankerConfig:
        """A ranker of these data: with offsets if they have them."""
        return replace(wanted, offset=self.taste is not None)

    @property
    def without_offset(self) -> NDArray[np.float32]:
        """(n, D) the features of the training rows."""
        return self.train.features if self.taste is None else self.train.features[:, :-OFFSETS]


def synthetic_input(data: LadderData, teacher: RankerConfig, student: RankerConfig) -> LadderInput:
    """Synthetic ids. The student reads the category alone, as a byte."""
    world = make(data)
    codes, sizes = world.fields.codes, world.fields.sizes
    train, validation, test = by_time(world.examples)
    return LadderInput(
        train,
        validation,
        test,
        ranker_data(train, data.n_items, codes, sizes, teacher.bins),
        ranker_data(train, data.n_items, codes[:, :1].astype(np.uint8), sizes[:1], student.bins),
    )


def lake_input(
    examples: Path,
    items: Path,
    n_features: int,
    length: int,
    teacher: RankerConfig,
    student: RankerConfig,
    seed: int = 0,
) -> LadderInput:
    """The examples that `recsys features build` wrote, as `recsys train rank` reads them.

    Args:
        examples: folder of the examples; n_features: D of each; length: L, events of history.
        items: the lake's item table.
        seed: of what the taste model draws.

    Raises:
        InvalidData: the examples or the item table are missing or do not fit.
    """
    table = read_items(items)
    fitted = learn_taste(examples, table, TRAIN, seed)
    offset = TasteOffsets(fitted.taste, table) if fitted else None
    rows = read_examples(examples, [item.item_id for item in table], n_features, length, offset=offset)
    given = input_of_periods(table, *by_time(rows), teacher, student)
    return replace(given, taste=fitted.taste if fitted else None)


def input_of_periods(
    items: Sequence[Item],
    train: RankExamples,
    validation: RankExamples,
    test: RankExamples,
    teacher: RankerConfig,
    student: RankerConfig,
) -> LadderInput:
    """Examples of three periods, with what both models store of the training rows and of the items."""
    facts = item_fields(items)
    teacher_data, student_data = (
        ranker_data(train, len(items), facts.codes, facts.sizes, shape.bins) for shape in (teacher, student)
    )
    warm_start = ranker_warm_start(items, facts, (), train)
    return LadderInput(train, validation, test, teacher_data, student_data, warm_start)


def by_time(rows: RankExamples) -> tuple[RankExamples, RankExamples, RankExamples]:
    """Training, validation and test rows: `TRAIN`, `VALIDATION` and the rest, oldest first. Of few rows, none may be
    left for validation; a single one is for training and test."""
    cuts = [0, int(len(rows) * TRAIN) or 1, int(len(rows) * (TRAIN + VALIDATION)), len(rows)]
    train, validation, test = (rows.take(slice(a, b)) for a, b in pairwise(cuts))
    return train, validation, test
