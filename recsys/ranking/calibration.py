"""Calibrate the heads' raw probabilities. Fitted in training, applied in serving; needs no torch.

`calibration.json` of a bundle: `{"click": {"method": "platt", "slope": …, "offset": …}, "like": {"method":
"isotonic", "raw": […], "calibrated": […]}, "dwell": {"method": "constant", "value": 0}}`. A head that is not named
stays raw, as dwell does where it was observed.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import Head

Probabilities = NDArray[np.float32]
_TINY = 1e-6


class Platt(msgspec.Struct, frozen=True, tag_field="method", tag="platt"):
    """sigmoid(slope · logit(p) + offset), slope ≥ 0 (Platt 1999). For heads with few positives."""

    slope: float
    offset: float

    def __post_init__(self) -> None:
        if not (self.slope >= 0 and np.isfinite([self.slope, self.offset]).all()):
            raise ValueError(f"slope {self.slope} and offset {self.offset}: finite, and slope ≥ 0")

    def apply(self, raw: Probabilities) -> Probabilities:
        p = np.clip(raw.astype(np.float64), _TINY, 1 - _TINY)
        z = self.slope * (np.log(p) - np.log1p(-p)) + self.offset
        return (1 / (1 + np.exp(-z))).astype(np.float32)


class Isotonic(msgspec.Struct, frozen=True, tag_field="method", tag="isotonic"):
    """Linear between knots, constant outside; `raw` rises strictly, `calibrated` does not fall."""

    raw: tuple[float, ...]
    calibrated: tuple[float, ...]

    def __post_init__(self) -> None:
        x, y = np.array(self.raw), np.array(self.calibrated)
        if not len(x) or len(x) != len(y) or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
            raise ValueError("isotonic knots: equally many, raw rising, calibrated not falling")

    def apply(self, raw: Probabilities) -> Probabilities:
        return np.interp(raw, self.raw, self.calibrated).astype(np.float32)


class Constant(msgspec.Struct, frozen=True, tag_field="method", tag="constant"):
    """The same for every candidate: a head whose label never varied in training has learnt nothing to order by."""

    value: float

    def __post_init__(self) -> None:
        if not np.isfinite(self.value):
            raise ValueError(f"constant {self.value}: must be finite")

    def apply(self, raw: Probabilities) -> Probabilities:
        return np.full_like(raw, self.value)


Calibration = Platt | Isotonic | Constant  # non-decreasing maps: they never reverse the order within a head


def calibrate(
    scores: Mapping[Head, NDArray[np.float32]], calibrations: Mapping[Head, Calibration]
) -> dict[Head, NDArray[np.float32]]:
    """All heads' scores, calibrated where `calibrations` has the head."""
    return {h: calibrations[h].apply(raw) if h in calibrations else raw for h, raw in scores.items()}


def write_calibrations(path: Path, calibrations: Mapping[Head, Calibration]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(calibrations)))


def read_calibrations(path: Path) -> dict[Head, Calibration]:
    """The content of `write_calibrations`.

    Raises:
        InvalidBundle: the file breaks the format.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[Head, Calibration])
    except msgspec.DecodeError as error:
        raise InvalidBundle(f"{path}: {error}; train the ranker again") from error
