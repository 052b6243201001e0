import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.types import Item
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import NO_CODE, REUSE_AFTER_S, Catalogue

ITEMS = [
    Item("a", categories=("Action", "Comedy"), creator="x", created_ms=1),
    Item("b", creator="y", created_ms=2),
    Item("c", categories=("Comedy",), creator="x"),
]


def test_rows_are_the_order_of_the_table() -> None:
    catalogue = Catalogue(ITEMS)
    assert catalogue.trained == len(catalogue) == 3
    assert catalogue.rows_of(["c", "unknown", "a"]).tolist() == [2, 0]
    assert catalogue.ids([2, 0]) == ["c", "a"]
    assert catalogue.item(1) == ITEMS[1]
    assert catalogue.main_category.tolist() == [0, NO_CODE, 1]
    assert catalogue.creator.tolist() == [0, 1, 0]
    assert catalogue.created_ms.tolist() == [1, 2, 0]


def test_new_items_get_the_next_rows_and_old_ones_keep_theirs() -> None:
    catalogue = Catalogue(ITEMS)
    changed = Item("b", categories=("Drama",), creator="z", created_ms=7)
    found = catalogue.put([Item("d", creator="y"), changed, Item("e"), Item("d", creator="x")])
    assert found.tolist() == [3, 1, 4, 3]
    assert (catalogue.trained, len(catalogue)) == (3, 5)
    assert catalogue.item(1) == changed
    assert catalogue.creator[3] == catalogue.creator[0]  # the last of two entries of one id holds
    assert catalogue.main_category.tolist() == [0, 2, 1, NO_CODE, NO_CODE]


def test_a_deleted_item_keeps_its_row_and_may_come_back() -> None:
    catalogue = Catalogue(ITEMS)
    assert catalogue.delete(["b", "unknown"]).tolist() == [1]
    assert catalogue.alive.tolist() == [True, False, True]
    assert catalogue.put([ITEMS[1]]).tolist() == [1]
    assert catalogue.alive.all()


def test_the_row_of_a_deleted_later_item_is_reused_when_nothing_holds_it() -> None:
    now = [0.0]
    catalogue = Catalogue(ITEMS, clock=lambda: now[0])
    catalogue.put([Item("d"), Item("e"), Item("f")])
    catalogue.delete(["a", "d", "e"])
    now[0] = REUSE_AFTER_S - 1
    assert catalogue.put([Item("g")]).tolist() == [6]
    assert catalogue.put([Item("e")]).tolist() == [4]  # back in time: its own
    now[0] = REUSE_AFTER_S
    catalogue.put([])
    assert catalogue.rows.keys() == {"a", "b", "c", "e", "f", "g"}
    new = [Item("h", creator="z", created_ms=9), Item("i"), Item("d")]
    assert catalogue.places(i.item_id for i in new) == {"h": 3, "i": 7, "d": 8}
    assert catalogue.put(new).tolist() == [3, 7, 8]
    assert catalogue.item(3).item_id == "h"
    assert (catalogue.created_ms[3], catalogue.alive[3], catalogue.alive[0]) == (9, True, False)
    catalogue.delete(["a"])  # of the bundle: its row is the models' number
    now[0] += 2 * REUSE_AFTER_S
    assert catalogue.put([Item("j")]).tolist() == [9]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["put", "delete", "wait"]))))
def test_a_living_item_keeps_its_row_and_no_row_has_two(steps: list[tuple[str, str]]) -> None:
    now = [0.0]
    catalogue, columns = Catalogue(ITEMS, clock=lambda: now[0]), ItemColumns(ITEMS, FEATURES)
    living: dict[str, int] = {"a": 0, "b": 1, "c": 2}
    for item_id, step in steps:
        if step == "wait":
            now[0] += REUSE_AFTER_S / 2
        elif step == "delete":
            catalogue.delete([item_id])
            living.pop(item_id, None)
        else:
            place = catalogue.places([item_id])[item_id]
            columns.put([place], [Item(item_id)])
            assert catalogue.put([Item(item_id)]).tolist() == [living.setdefault(item_id, place)]
        assert len(set(living.values())) == len(living)
        assert sorted(np.flatnonzero(catalogue.alive)) == sorted(living.values())
        assert {i: catalogue.rows[i] for i in living} == {i: columns.row(i) for i in living} == living
        assert catalogue.ids(living.values()) == [*living]


def test_two_items_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="2 items have only 1"):
        Catalogue([Item("a"), Item("a")])


def test_readers_beside_a_writer_see_whole_items() -> None:
    catalogue = Catalogue([])
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            n = len(catalogue)
            rows = np.arange(n)
            if not (catalogue.created_ms[rows] == rows + 1).all() or not catalogue.alive[rows].all():
                wrong.append("arrays")
            next_row = catalogue.rows.get(f"i{n}")  # visible only after everything about it
            if next_row is not None and catalogue.created_ms[next_row] != n + 1:
                wrong.append("rows")
            if n and catalogue.item(n - 1).item_id != f"i{n - 1}":
                wrong.append("items")

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(3000):
        catalogue.put([Item(f"i{i}", created_ms=i + 1)])
    done.set()
    reader.join()
    assert not wrong
