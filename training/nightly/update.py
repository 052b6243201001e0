"""A night between two full trainings: both models continue from yesterday's weights. `recsys train nightly`.

Each new work folder takes the old one's place once it is complete. A killed night changes nothing, and the next run
starts again from yesterday's weights; killed between the two renames, it trains in full.
"""

import math
import shutil
from pathlib import Path

from recsys.contracts.errors import InvalidData
from recsys.files import replace_folder
from training.nightly import ranker as nightly_ranker
from training.nightly.ranker import RankerUpdate, UpdateReport
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.train import OnProgress
from training.two_tower.warm_start import trained_config
from training.warm_start import read_warm_start

_TWO_TOWER_NIGHT = {
    "epochs": 1,
    "learning_rate": 5e-4,
    "ema": 0.0,  # an average over more batches than a night has would keep yesterday's weights
    "validation": Validation.NONE,
    "refit": False,
}


def nights_since_full(*works: Path) -> float:
    """Updates since the models in these work folders were trained in full; infinite where one never was."""
    try:
        return max(read_warm_start(work).nights for work in works)
    except InvalidData:
        return math.inf


def update_two_tower(
    config: TwoTowerConfig, work: Path, progress: OnProgress = lambda phase, done, epochs: None
) -> None:
    """Train the two-tower in `work` for one pass over the newer events, and export it there.

    Args:
        config: as for a full training.

    Raises:
        InvalidConfig: yesterday's two-tower had another shape.
        InvalidData: there is none, or the data are unusable.
    """
    before = trained_config(work) if config.linear_rank else config
    changes = {"start": work, "newer_than_ms": read_warm_start(work).trained_until_ms}
    for chosen in ("linear_weight", "linear_regularisation"):  # by the full training, unless set
        if getattr(config, chosen) is None:
            changes[chosen] = getattr(before, chosen)
    new = work.with_name(f"{work.name}.new")
    for folder in (config.work, new):  # of a killed night
        shutil.rmtree(folder, ignore_errors=True)
    result = train_two_tower.main(config.replace(**_TWO_TOWER_NIGHT, **changes), progress)
    export_two_tower.main(result, new)
    replace_folder(new, work)
    shutil.rmtree(config.work, ignore_errors=True)


def update_ranker(config: RankerUpdate) -> UpdateReport:
    """Run `training.nightly.ranker.main` and put its output in the place of `work`.

    Raises:
        InvalidConfig, InvalidData: as it does.
    """
    shutil.rmtree(config.out, ignore_errors=True)  # of a killed night
    report = nightly_ranker.main(config)
    replace_folder(config.out, config.work)
    return report
