"""Items that arrive after the catalogue was loaded read as if they had always been there."""

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, Item
from recsys.features.assemble import assemble
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns

NOW = 20_000 * MS_PER_DAY


def item(i: int, **attributes: str) -> Item:
    return Item(f"i{i}", "", (f"c{i % 3}",), f"m{i % 2}", NOW - i * MS_PER_DAY, attributes)


def state(i: int) -> EntityState:
    return EntityState({"engaged": 10 * i, "lastengaged": NOW - 1_000 * i})


def matrix(columns: ItemColumns, n: int) -> NDArray[np.float32]:
    return assemble(FEATURES, EntityState(), {}, columns, np.arange(n, dtype=np.int32), NOW, {})


def test_items_put_one_by_one_equal_items_loaded_at_once() -> None:
    items = [item(i, duration_ms=str(1990 + i)) for i in range(200)]
    whole = ItemColumns(items, FEATURES)
    grown = ItemColumns(items[:3], FEATURES)
    matrix(grown, 3)
    for row in range(3, 200):
        grown.put([row], [items[row]])
    for columns in (whole, grown):
        columns.load((f"i{i}", state(i)) for i in range(200))
    assert len(grown) == 200
    np.testing.assert_array_equal(matrix(grown, 200), matrix(whole, 200))
    assert grown.refresh(NOW + MS_PER_DAY) == 200


def test_a_replaced_item_keeps_its_state_and_reads_its_new_attributes() -> None:
    columns = ItemColumns([item(i) for i in range(5)], FEATURES)
    columns.update("i2", state(2))
    before = matrix(columns, 5)
    columns.put([2], [item(2, duration_ms="2001")])
    after = matrix(columns, 5)
    differing = np.argwhere(before != after).tolist()
    assert differing == [[2, FEATURES.names.index("item_duration_ms")]]


def test_rows_without_holes_only() -> None:
    columns = ItemColumns([item(0)], FEATURES)
    with pytest.raises(ValueError, match="without holes"):
        columns.put([2], [item(2)])
    columns.put([], [])
    assert len(columns) == 1
