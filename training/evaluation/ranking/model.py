"""The ranker as it is served: trained as `recsys train rank` does it, scored by its export, calibrated."""

from collections.abc import Sequence
from pathlib import Path

from recsys.contracts.types import Item
from recsys.features.definitions import FEATURES
from recsys.ranking.calibration import calibrate, read_calibrations
from recsys.ranking.compiled import open_ranker
from training.compression import ladder
from training.compression.configs import HISTORY_LENGTH
from training.compression.gates import Scores
from training.ranker.artifacts import CALIBRATION
from training.ranker.dataset import RankExamples
from training.ranker.fit_taste import Fitted
from training.ranker.loop import LoopConfig
from training.ranker.train import RankerTraining, train_on


def train_as_served(
    out: Path,
    items: Sequence[Item],
    train: RankExamples,
    validation: RankExamples,
    taste: Fitted | None,
    loop: LoopConfig,
) -> None:
    """Train into `out`; an interrupted training continues from its last epoch.

    Args:
        validation: stops the training early and calibrates it.
        taste: whose offsets are the last features; None: there are none.
    """
    config = RankerTraining(
        n_features=FEATURES.dimension,
        examples=out,  # the rows are given
        items=out,
        out=out,
        checkpoints=out,
        history_length=HISTORY_LENGTH,
        loop=loop,
    )
    train_on(config, items, train, validation, taste)


def scores_as_served(folder: Path, rows: RankExamples) -> Scores:
    """Calibrated scores of an exported ranker, each row as a request of its own."""
    return calibrate(ladder.row_scores(open_ranker(folder), rows), read_calibrations(folder / CALIBRATION))
