"""The union of the states of one user's ids: merged users."""

from collections.abc import Mapping
from heapq import merge
from operator import itemgetter

import numpy as np

from recsys.contracts.state import EntityState
from recsys.features.aggregates import Entity
from recsys.features.cells import CellCoding, PackedCells
from recsys.store.base import StateDefinition
from recsys.store.encoding import merged_cells

_MOMENT = itemgetter(0, 1)  # of a visit: event time, event id


class StateUnion:
    """Thread-safe."""

    def __init__(self, features: StateDefinition) -> None:
        self._coding = CellCoding(features.aggregates, Entity.USER)
        self._histories = features.histories

    def of(self, states: Mapping[str, EntityState]) -> EntityState:
        """`states`: of each id; their cells are those of the feature definitions. Without attributes.

        Two ids may have an event of the same time and event id; these are in the order of the ids, as in the lake.
        """
        in_order = [state for _, state in sorted(states.items())]
        codes, amounts = (
            np.concatenate(arrays)
            for arrays in zip(*(self._coding.pack(state.cells) for state in in_order), strict=True)
        )
        _, codes, amounts = merged_cells(self._coding, np.zeros_like(codes), codes, amounts)
        union = EntityState(PackedCells(self._coding, codes, amounts))
        for history in self._histories:
            visits = [*merge(*(s.histories.get(history.name, ()) for s in in_order), key=_MOMENT)]
            if visits:
                union.histories[history.name] = visits[-history.size :]
        return union
