import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.types import Item
from recsys.items.packed_items import PackedItems

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_TEXTS = st.lists(_TEXT, max_size=3).map(tuple)
_MS = st.integers(0, 2**53)
ITEMS = st.builds(
    Item, _TEXT, _TEXT, _TEXTS, _TEXT, _MS, st.dictionaries(_TEXT, _TEXT, max_size=3), _MS, _MS, _TEXTS
)


@given(st.lists(ITEMS, max_size=5), ITEMS)
def test_items_come_out_as_they_went_in(items: list[Item], other: Item) -> None:
    packed = PackedItems()
    packed.extend(items)
    packed.extend(iter([other]))
    assert [*packed] == [packed[row] for row in range(len(packed))] == [*items, other]
    packed[0] = other
    assert packed[0] == other and other in packed


def test_they_take_a_fraction_of_the_memory() -> None:
    def bytes_of(make: type[list[Item]] | type[PackedItems]) -> int:
        tracemalloc.start()
        kept = make()
        kept.extend(
            Item(f"item-{i}", f"A title {i}", (f"main {i % 9}", f"other {i % 7}"), f"creator {i}", i)
            for i in range(2_000)
        )
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size

    assert bytes_of(PackedItems) < bytes_of(list) / 2  # a third, and what the first one allocates once
