import subprocess
import sys

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
    """In interpreters of their own: elsewhere Python has free objects of before, which tracemalloc does not count."""

    def bytes_of(make: str) -> int:
        script = (
            "import tracemalloc\n"
            "from recsys.contracts.types import Item\n"
            "from recsys.items.packed_items import PackedItems\n"
            "tracemalloc.start()\n"
            f"kept = {make}()\n"
            "kept.extend(\n"
            "    Item(f'item-{i}', f'A title {i}', (f'main {i % 9}', f'other {i % 7}'), f'creator {i}', i)\n"
            "    for i in range(2_000)\n"
            ")\n"
            "print(tracemalloc.get_traced_memory()[0])\n"
        )
        return int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)

    assert bytes_of("PackedItems") < bytes_of("list") / 3
