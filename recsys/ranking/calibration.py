"""Calibrate the heads' raw probabilities. Fitted in training, applied in serving; numpy only.

`calibration.json` of a bundle: `{"click": {"method": "platt", "slope": …, "offset": …}, "like": {"method":
"isotonic", "raw": […], "calibrated": […]}}`. A head that is not named stays raw; dwell is never calibrated.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import Head

Probabilities = NDArray[np.float32]
_TINY = 1e-6


class Calibration(Protocol):
    """A non-decreasing map of probabilities: it never reverses the order within a head."""

    def apply(self, raw: Probabilities) -> Probabilities: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Platt:
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

    def to_dict(self) -> dict[str, Any]:
        return {"method": "platt", "slope": self.slope, "offset": self.offset}


@dataclass(frozen=True)
class Isotonic:
    """Linear between knots, constant outside; `raw` rises strictly, `calibrated` does not fall."""

    raw: tuple[float, ...]
    calibrated: tuple[float, ...]

    def __post_init__(self) -> None:
        x, y = np.array(self.raw), np.array(self.calibrated)
        if not len(x) or len(x) != len(y) or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
            raise ValueError(
                "isotonic knots: raw and calibrated must be equally long, raw rising, calibrated not falling"
            )

    def apply(self, raw: Probabilities) -> Probabilities:
        return np.interp(raw, self.raw, self.calibrated).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return {"method": "isotonic", "raw": list(self.raw), "calibrated": list(self.calibrated)}


def calibrate(
    scores: Mapping[Head, NDArray[np.float32]], calibrations: Mapping[Head, Calibration]
) -> dict[Head, NDArray[np.float32]]:
    """All heads' scores, calibrated where `calibrations` has the head."""
    return {h: calibrations[h].apply(raw) if h in calibrations else raw for h, raw in scores.items()}


def write_calibrations(path: Path, calibrations: Mapping[Head, Calibration]) -> None:
    path.write_text(
        json.dumps({str(h): c.to_dict() for h, c in calibrations.items()}, indent=2), encoding="utf-8"
    )


def read_calibrations(path: Path) -> dict[Head, Calibration]:
    """What `write_calibrations` wrote.

    Raises:
        InvalidBundle: the file breaks the format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {Head(head): _parse(raw) for head, raw in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidBundle(f"{path}: {error}; train the ranker again") from error


def _parse(raw: Mapping[str, Any]) -> Calibration:
    if raw["method"] == "platt":
        return Platt(float(raw["slope"]), float(raw["offset"]))
    if raw["method"] == "isotonic":
        return Isotonic(tuple(map(float, raw["raw"])), tuple(map(float, raw["calibrated"])))
    raise ValueError(f"method {raw['method']!r} is neither platt nor isotonic")
