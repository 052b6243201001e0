"""A record next to a model's weights that lets the next training continue from them (`recsys train nightly`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.operator_files import read_json

WARM_START = "warm_start.json"
WEIGHTS = "weights.safetensors"
FULL = "train in full: `recsys train all`, or `recsys train nightly --full`"


@dataclass(frozen=True)
class WarmStart:
    """What the numbers in a model's weights mean, and how far it has learnt.

    must_agree: JSON-ready; what a run that continues from the weights must share (sizes, feature fingerprint).
    item_ids: number i + 1 is item_ids[i]. fields: item field → its values; code i + 1 is the i-th.
    trained_until_ms: time of the newest row it was trained on.
    nights: updates since it was trained in full.
    """

    must_agree: Mapping[str, Any]
    item_ids: Sequence[str]
    trained_until_ms: int
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nights: int = 0

    def write(self, folder: Path) -> None:
        (folder / WARM_START).write_text(json.dumps(asdict(self)), encoding="utf-8")

    def check(self, wanted: Mapping[str, Any]) -> None:
        """
        Raises:
            InvalidConfig: naming what differs.
        """
        ours: dict[str, Any] = json.loads(json.dumps(wanted))
        for name in sorted({*ours, *self.must_agree}):
            if ours.get(name) != self.must_agree.get(name):
                raise InvalidConfig(
                    f"yesterday's model has a different {name} ({self.must_agree.get(name)}, now {ours.get(name)}),"
                    f" so training cannot continue from it; {FULL}"
                )


def read_warm_start(folder: Path) -> WarmStart:
    """
    Raises:
        InvalidData: no model was trained there, or by an earlier version.
    """
    try:
        return read_json(folder / WARM_START, WarmStart, InvalidData)
    except FileNotFoundError:
        raise InvalidData(f"{folder}: no model to continue from; {FULL}") from None
    except InvalidData as error:
        raise InvalidData(f"{error}; {FULL}") from error


def old_numbers(old: Sequence[str], new: Sequence[str]) -> NDArray[np.int64]:
    """(1 + len(new),) the number that each number had before: 0 for 0 and for a new item.

    >>> old_numbers(["a", "c"], ["a", "b", "c"]).tolist()
    [0, 1, 0, 2]
    """
    number = {item_id: i for i, item_id in enumerate(old, start=1)}
    return np.array([0, *(number.get(item_id, 0) for item_id in new)], np.int64)
