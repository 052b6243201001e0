"""The compiled features equal `assemble` bit for bit, whatever the state."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.contracts.state import MAX_SUM, EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType
from recsys.features.aggregates import Entity
from recsys.features.assemble import assemble
from recsys.features.compile import CompiledFeatures, NotCompiled, assembler
from recsys.features.definitions import FEATURES
from recsys.features.feature_set import FeatureSet
from recsys.features.item_columns import ItemColumns
from recsys.features.spec import Feature, Floats, Source, Total
from tests.recsys.features.worlds import START_MS, catalogue, population, random_log
from tests.recsys.native.built import needs_native

CONTEXT = {"tab": "4"}


@dataclass(frozen=True)
class Constant(Feature):
    """A kind that somebody added."""

    kind = "constant"

    def values(self, source: Source) -> list[Floats]:
        return [7.0]


@dataclass(frozen=True)
class Fixed:
    """`ItemSide` with values of other rows."""

    catalogue: ItemColumns
    steady: NDArray[np.float32]

    def values(self, rows: NDArray[np.int32], now_ms: int) -> NDArray[np.float32]:
        return self.steady

    def total(self, total: Total, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.zeros(len(rows), np.int64)


def user_of(rng: random.Random, n_events: int, n_items: int) -> tuple[EntityState, ItemColumns]:
    """A user's state after random events, some of them about items that the catalogue does not have."""
    items = catalogue(rng, n_items)
    user, *_ = users = population(rng, 2)
    state, shares = EntityState(), {item.item_id: EntityState() for item in items}
    counted: set[bytes] = set()
    for event in random_log(rng, users, items, n_events, rng.choice([MS_PER_HOUR, 40 * MS_PER_DAY])):
        folded = FEATURES.fold(event)
        for delta in folded.of_item(counted):
            shares[event.item_id].change(delta)
        if event.user_id == user.user_id:
            for delta in folded.user:
                state.change(delta)
            for history, visit in folded.visits:
                state.visit(history, visit)
    for cell in rng.sample(sorted(state.cells), min(3, len(state.cells))):
        state.cells[cell] = MAX_SUM - rng.randrange(3)
    columns = ItemColumns(items[: max(1, n_items - 1)], FEATURES)
    columns.load((id_, share) for id_, share in shares.items() if columns.row(id_) >= 0)
    return state, columns


@needs_native
@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 300), st.integers(1, 12), st.integers(0, 40))
def test_the_same_bits_for_any_state(rng: random.Random, events: int, items: int, days: int) -> None:
    state, columns = user_of(rng, events, items)
    rows = np.array(rng.choices(range(len(columns)), k=rng.choice([0, 1, 7])), np.int32)
    now_ms = START_MS + days * MS_PER_DAY + rng.randrange(MS_PER_DAY)
    attributes = rng.choice([{}, {"age": "33", "gender": "F"}, {"age": "nan", "user_active_degree": "x"}])
    compiled = CompiledFeatures(FEATURES).assemble(state, attributes, columns, rows, now_ms, CONTEXT)
    reference = assemble(FEATURES, state, attributes, columns, rows, now_ms, CONTEXT)
    wrong = np.argwhere(compiled.view(np.uint32) != reference.view(np.uint32))
    assert not wrong.size, [(FEATURES.names[c], compiled[r, c], reference[r, c]) for r, c in wrong[:5]]


@needs_native
@pytest.mark.parametrize("kind", sorted({f.kind for f in FEATURES.features}))
def test_each_kind_alone(kind: str) -> None:
    features = FeatureSet([f for f in FEATURES.features if f.kind == kind], FEATURES.histories)
    rng = random.Random(kind)
    state, known = user_of(rng, 200, 6)
    columns = ItemColumns(catalogue(rng, len(known)), features)
    rows = np.arange(len(columns), dtype=np.int32)
    now_ms = START_MS + 5 * MS_PER_DAY
    compiled = CompiledFeatures(features).assemble(state, {}, columns, rows, now_ms, CONTEXT)
    reference = assemble(features, state, {}, columns, rows, now_ms, CONTEXT)
    assert np.array_equal(compiled.view(np.uint32), reference.view(np.uint32))


@needs_native
def test_a_kind_that_is_not_known_keeps_the_python_path() -> None:
    features = FeatureSet([*FEATURES.features, Constant("seven", Entity.CONTEXT)], FEATURES.histories)
    with pytest.raises(NotCompiled, match="seven"):
        CompiledFeatures(features)
    columns = ItemColumns(catalogue(random.Random(0), 2), features)
    rows = np.array([1, 0], np.int32)
    matrix = assembler(features, native=True)(EntityState(), {}, columns, rows, START_MS, {})
    assert matrix[:, -1].tolist() == [7, 7]


@needs_native
def test_rows_and_arrays_that_do_not_fit_are_refused() -> None:
    """A wrong row would read memory that is not the catalogue's."""
    compiled = CompiledFeatures(FEATURES)
    columns = ItemColumns(catalogue(random.Random(0), 2), FEATURES)
    steady = columns.values(np.array([0], np.int32), START_MS)
    for row in (-1, 2_000_000):
        with pytest.raises(ValueError, match="a row that no item has"):
            compiled.assemble(
                EntityState(), {}, Fixed(columns, steady), np.array([row], np.int32), START_MS, {}
            )
    with pytest.raises(ValueError, match="steady values of every row"):
        compiled.assemble(EntityState(), {}, Fixed(columns, steady), np.zeros(2, np.int32), START_MS, {})
    state = EntityState(histories={"engaged": [(1, "e", EventType.CLICK)]})  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not a visit"):
        compiled.assemble(state, {}, columns, np.array([0], np.int32), START_MS, {})
