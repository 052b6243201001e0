"""How the item side of a feature set lies in arrays: cells as integers, and all totals of many items at once."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY
from recsys.features.aggregates import Entity
from recsys.features.cells import CellCoding, aggregates_of, tiles_of
from recsys.features.feature_set import FeatureSet, runs
from recsys.features.spec import Total
from recsys.features.windows import saturated

Cells = bytes  # of (k, 2) int64, code (see `features.cells`) and amount; an array would take 150 more for each item
_CELL_BYTES = 16


class ItemLayout:
    """Its totals, its cached features (`steady`), and what ticks."""

    def __init__(self, features: FeatureSet, more: Sequence[Total] = ()) -> None:
        """`more`: further totals, of cells that the features keep anyway."""
        self.steady, self.columns = features.placed(lambda f: f.entity is Entity.ITEM and not f.ticking)
        self.runs = runs(self.columns)
        ticking, _ = features.placed(lambda f: f.entity is Entity.ITEM and f.ticking)
        self.ticking_totals = tuple(dict.fromkeys(t for f in ticking for t in f.totals))
        if any(t.window.hop_ms for t in self.ticking_totals):
            raise ValueError("a feature that ticks reads lifetime totals only")
        self._coding = CellCoding(features.aggregates, Entity.ITEM)
        aggregates, totals = self._coding.aggregates, dict.fromkeys((*features.totals, *more))
        self._totals = [
            [t for t in totals if t.entity is Entity.ITEM and t.aggregate_name == a.name] for a in aggregates
        ]
        self._hop_ms = min((a.hop_ms for a in aggregates if a.hop_ms), default=MS_PER_DAY)

    def period(self, now_ms: int) -> int:
        """Cached values hold while this stays the same: hops divide one another, so the finest tells."""
        return now_ms // self._hop_ms

    def encode(self, state: EntityState) -> Cells:
        """A state's cells as integers."""
        return np.array(self._coding.pack(state.cells)).T.tobytes()

    def decode(self, cells: Sequence[Cells], now_ms: int) -> Mapping[Total, NDArray[np.int64]]:
        """Every total of every given state as of `now_ms`, (len(cells),) int64 each."""
        n = len(cells)
        owner = np.repeat(np.arange(n), [len(c) // _CELL_BYTES for c in cells])
        codes, amounts = np.frombuffer(b"".join(cells), np.int64).reshape(-1, 2).T
        aggregates = aggregates_of(codes)
        order = np.argsort(aggregates, kind="stable")
        owner, amounts, tiles = owner[order], amounts[order], tiles_of(codes[order])
        # cells of other feature sets come after the last
        ends = np.searchsorted(aggregates[order], np.arange(len(self._totals) + 1))
        found: dict[Total, NDArray[np.int64]] = {}
        for i, totals in enumerate(self._totals):
            part = slice(ends[i], ends[i + 1])
            for total in totals:
                weighted = _weighted(total, tiles[part], amounts[part], now_ms)
                # float64 sums of integers below 2^53 are exact, and others saturate
                found[total] = saturated(np.bincount(owner[part], weighted, minlength=n).astype(np.int64))
        return found


def _weighted(
    total: Total, tiles: NDArray[np.int64], amounts: NDArray[np.int64], now_ms: int
) -> NDArray[np.int64]:
    window = total.window
    if not window.hop_ms:
        return amounts
    age = now_ms // window.hop_ms - tiles
    weights = window.weights[np.clip(age, 0, window.tiles - 1)]
    return np.where((age >= 0) & (age < window.tiles), weights * np.minimum(amounts, window.largest), 0)
