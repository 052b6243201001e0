"""How unsure the ranker is of an item: a Bayesian last layer of one weight for each item.

    log odds of a click = the ranker's + b[item]        b ~ N(0, item_variance)

With n impressions of probability p the posterior variance of b is 1 / (1 / item_variance + n · p · (1 − p)), by
Laplace's approximation; its mean is left to the ranker, which reads the item's clicks as features. `item_variance` is
learnt from the log (`training.ranker.fit_uncertainty`), n is counted live, so that what is shown becomes certain within
a second (ADR 30).
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle, UnknownFeature
from recsys.contracts.request import Rows
from recsys.features.feature_set import FeatureSet
from recsys.features.item_columns import ItemColumns
from recsys.operator_files import read_json

UNCERTAINTY = "uncertainty.json"
SHOWN = "item_shown_ever"  # the feature that counts an item's impressions


class Uncertainty(msgspec.Struct, frozen=True, kw_only=True):
    """`uncertainty.json` of a bundle. item_variance: of the log odds of a click on an item that was never shown, beyond
    what the ranker knows; 0: the log shows none."""

    item_variance: float

    def __post_init__(self) -> None:
        if not (self.item_variance >= 0 and np.isfinite(self.item_variance)):
            raise ValueError(f"item_variance {self.item_variance}: a finite number, not below 0")

    def deviation(self, shown: NDArray[np.floating], click: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n,) standard deviations of the log odds of a click. `shown` (n,): impressions of the items; `click` (n,):
        their probabilities of a click."""
        information = np.maximum(shown, 0.0) * click * (1.0 - click)
        return np.asarray(np.sqrt(self.item_variance / (1.0 + self.item_variance * information)), np.float64)


@dataclass(frozen=True, eq=False)
class ItemUncertainty:
    """Of the items that are served, by their live counts. Thread-safe."""

    learnt: Uncertainty
    columns: ItemColumns
    place: int  # of `SHOWN` in the columns

    @classmethod
    def of(cls, learnt: Uncertainty, columns: ItemColumns, features: FeatureSet) -> "ItemUncertainty":
        """Raises `UnknownFeature`: the features do not count impressions."""
        names = [features.names[place] for place in columns.columns]
        if SHOWN not in names:
            raise UnknownFeature(f"{SHOWN}: not an item feature; there are {', '.join(names)}")
        return cls(learnt, columns, names.index(SHOWN))

    def deviation(self, rows: Rows, click: NDArray[np.float32], now_ms: int) -> NDArray[np.float64]:
        """As `Uncertainty.deviation`, of items of the catalogue."""
        return self.learnt.deviation(self.columns.column(self.place, rows, now_ms), click)


def write_uncertainty(folder: Path, learnt: Uncertainty) -> None:
    (folder / UNCERTAINTY).write_bytes(msgspec.json.format(msgspec.json.encode(learnt)))


def read_uncertainty(folder: Path) -> Uncertainty:
    """
    Raises:
        InvalidBundle: the file is missing or breaks the format.
    """
    try:
        return read_json(folder / UNCERTAINTY, Uncertainty, InvalidBundle)
    except FileNotFoundError:
        raise InvalidBundle(f"{folder}: has no {UNCERTAINTY}; train the ranker again") from None
