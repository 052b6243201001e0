import numpy as np

from recsys.contracts.types import Item
from recsys.items.catalogue import Catalogue
from recsys.models.attributes import vectors_from_attributes
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.live_index import LiveIndex
from recsys.recall.live_items import LiveItems
from tests.bundles import DIMENSION, tiny_items, tiny_linear, tiny_vectors

ITEMS = tiny_items(20)
VECTORS = tiny_vectors(20)
ATTRIBUTES = np.vstack([np.zeros((1, DIMENSION), np.float32), tiny_vectors(500, seed=9)])


def make(with_attributes: bool = True) -> tuple[LiveItems, Catalogue, LiveIndex]:
    catalogue, index = Catalogue(ITEMS), LiveIndex.build(VECTORS)
    return (
        LiveItems(catalogue, index, ItemVectors(VECTORS, ATTRIBUTES if with_attributes else None)),
        catalogue,
        index,
    )


def test_a_new_item_is_found_by_the_vector_of_its_attributes() -> None:
    live, catalogue, index = make()
    item = Item("new", "Night Train", ("category-1",), "creator-2")
    (row,) = live.put([item]).tolist()
    assert (row, len(catalogue), len(index)) == (20, 21, 21)
    assert index.search(vectors_from_attributes([item], ATTRIBUTES), 1).of(0).tolist() == [row]


def test_a_trained_item_keeps_its_vector_and_gets_it_back() -> None:
    live, catalogue, index = make()
    live.put([Item(ITEMS[4].item_id, "other title")])
    np.testing.assert_array_equal(index.vectors(np.array([4], np.int32))[0], VECTORS[4])
    assert live.delete([ITEMS[4].item_id, "unknown"]).tolist() == [4]
    assert 4 not in index.search(VECTORS[4:5], 20).of(0)
    assert not catalogue.alive[4]
    live.put([ITEMS[4]])
    assert index.search(VECTORS[4:5], 1).of(0).tolist() == [4]
    assert catalogue.alive[4]


def test_an_item_without_attributes_is_only_in_the_catalogue() -> None:
    live, catalogue, index = make()
    live.put([Item("blank")])
    assert (len(catalogue), len(index)) == (21, 20)
    live, catalogue, index = make(with_attributes=False)
    live.put([Item("new", categories=("category-1",))])
    assert (len(catalogue), len(index)) == (21, 20)


def test_with_a_linear_part_a_new_item_has_none_and_a_trained_one_keeps_its_own() -> None:
    vectors = ItemVectors(VECTORS, ATTRIBUTES, tiny_linear(20))
    index = LiveIndex.build(vectors.indexed)
    live = LiveItems(Catalogue(ITEMS), index, vectors)
    new, old = live.put([Item("new", categories=("category-1",))]), live.put([ITEMS[4]])
    (found,) = index.vectors(new)
    assert found[:DIMENSION].any()
    assert not found[DIMENSION:].any()
    np.testing.assert_array_equal(index.vectors(old)[0], vectors.indexed[4])
