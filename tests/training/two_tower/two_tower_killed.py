"""Train from a configuration file and kill this process at its n-th checkpoint: a part of the resume test."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.checkpoint import TrainingState
from training.two_tower.config import TwoTowerConfig
from training.two_tower.train import main

config, fatal, moment = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
saves = 0
save = TrainingState.save
rename = Path.rename


def die(path: Path, target: Path) -> Path:
    os.kill(os.getpid(), signal.SIGKILL)
    return target


def save_and_die(
    self: TrainingState[Any], path: Path, identity: Mapping[str, Any], write: bool = True
) -> None:
    global saves
    saves += 1
    if saves == fatal and moment == "before":
        Path.rename = die  # type: ignore[method-assign,assignment]
    save(self, path, identity, write)
    if saves == fatal:
        os.kill(os.getpid(), signal.SIGKILL)


TrainingState.save = save_and_die  # type: ignore[method-assign]
main(TwoTowerConfig.model_validate_json(config.read_text()))
