"""A night between two trainings in full: both models go on from yesterday's weights. `recsys train nightly`.

Each new work folder is staged and takes the old one's place once complete, so a killed night changes
nothing and the next run begins again from yesterday's; killed between the two renames, it trains in full.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.contracts.errors import InvalidData
from recsys.files import replace_folder, staged_folder
from training.nightly import ranker as nightly_ranker
from training.nightly.ranker import RankerUpdate, UpdateReport
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.train import OnProgress
from training.warm_start import read_warm_start

_TOWERS = {"epochs": 1, "learning_rate": 5e-4, "validation": Validation.NONE, "refit": False}


def nights_since_full(*works: Path) -> float:
    """Updates since the models in these work folders were trained in full; infinite where one never was."""
    try:
        return max(read_warm_start(work).nights for work in works)
    except InvalidData:
        return math.inf


def update_two_tower(
    config: TwoTowerConfig, work: Path, progress: OnProgress = lambda phase, done, epochs: None
) -> None:
    """Train `work`'s two-tower for one pass over what is newer, and export it there.

    Args:
        config: as for a training in full.

    Raises:
        InvalidConfig: yesterday's had another shape.
        InvalidData: there is none, or the data are unusable.
    """
    changes = {**_TOWERS, "start": work, "newer_than_ms": read_warm_start(work).trained_until_ms}
    shutil.rmtree(config.work, ignore_errors=True)
    result = train_two_tower.main(config.model_copy(update=changes), progress)
    with replaced(work) as staging:
        export_two_tower.main(result, staging)
    shutil.rmtree(config.work, ignore_errors=True)


def update_ranker(config: RankerUpdate) -> UpdateReport:
    """`training.nightly.ranker.main`; what it leaves in `out` takes the place of `work`.

    Raises:
        InvalidConfig, InvalidData: as it does.
    """
    shutil.rmtree(config.out, ignore_errors=True)  # of a night that was killed
    report = nightly_ranker.main(config)
    replace_folder(config.out, config.work)
    return report


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends well."""
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    with staged_folder(new) as staging:
        yield staging
    replace_folder(new, folder)
