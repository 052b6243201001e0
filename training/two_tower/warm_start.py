"""Warm-start the two-tower from an earlier one: rows of items are carried over by their ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import Item
from recsys.models.two_tower import TwoTower, TwoTowerShape
from recsys.operator_files import read_json
from training.two_tower.config import TwoTowerConfig
from training.warm_start import FULL, WARM_START, WEIGHTS, WarmStart, old_numbers, read_warm_start

SUMMARY = "summary.json"  # how it was trained, and its figures
_IDS = "items.ids.weight"


def save_weights(
    model: TwoTower, config: TwoTowerConfig, items: Sequence[Item], until_ms: int, folder: Path
) -> None:
    """Write what another run can start from. `until_ms`: time of the newest event trained on."""
    nights = read_warm_start(config.start).nights + 1 if config.start is not None else 0
    (folder / WARM_START).unlink(missing_ok=True)  # an interrupted write leaves nothing to start from
    save_file({name: weight.contiguous() for name, weight in model.state_dict().items()}, folder / WEIGHTS)
    ids = [item.item_id for item in items]
    WarmStart(_must_agree(config.shape), ids, until_ms, nights=nights).write(folder)


def warm_start(model: TwoTower, folder: Path, shape: TwoTowerShape, items: Sequence[Item]) -> None:
    """Load the weights. A new item's id row is zero: its attributes are all that is known of it.

    Raises:
        InvalidConfig: the earlier two-tower has another shape.
        InvalidData: there is none.
    """
    previous = read_warm_start(folder)
    previous.check(_must_agree(shape))
    weights = load_file(folder / WEIGHTS)
    old = torch.from_numpy(old_numbers(previous.item_ids, [item.item_id for item in items]))
    ids = weights[_IDS][old]
    ids[1:][old[1:] == 0] = 0.0
    model.load_state_dict(weights | {_IDS: ids})


def trained_config(folder: Path) -> TwoTowerConfig:
    """What the two-tower in this work folder was trained with, as its export noted it.

    Raises:
        InvalidData: there is none, or of another version.
    """
    try:
        summary = read_json(folder / SUMMARY, dict[str, Any], InvalidData)
        return TwoTowerConfig.model_validate(summary["config"])
    except (FileNotFoundError, KeyError, ValidationError) as error:
        raise InvalidData(f"{folder}: does not say how it was trained; {FULL}") from error


def _must_agree(shape: TwoTowerShape) -> dict[str, object]:
    return {f"two-tower's {name}": value for name, value in shape.model_dump(mode="json").items()}
