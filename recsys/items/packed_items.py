"""Items as bytes: as Python objects, a catalogue of 100,000 would take 100 MB in each process."""

from collections.abc import Collection, Iterable, Iterator

import msgspec

from recsys.contracts.types import Item

_ID, *_OTHERS = Item.__slots__
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Item).decode


class _Named(msgspec.Struct):
    item_id: str


_decode_id = msgspec.msgpack.Decoder(_Named).decode


class PackedItems(Collection[Item]):
    """Items by row. Each read decodes one, which takes a microsecond or two."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, row: int) -> Item:
        return _decode(self._packed[row])

    def __setitem__(self, row: int, item: Item) -> None:
        self._packed[row] = _pack(item)

    def __contains__(self, item: object) -> bool:
        return any(each == item for each in self)

    def __iter__(self) -> Iterator[Item]:
        """One after the other, so that they are never all in memory."""
        return map(_decode, self._packed)

    def ids(self, rows: Iterable[int]) -> list[str]:
        return [_decode_id(self._packed[row]).item_id for row in rows]

    def extend(self, items: Iterable[Item]) -> None:
        self._packed.extend(map(_pack, items))


def _pack(item: Item) -> bytes:
    """The id, and what differs from its default, by name."""
    others = {name: value for name in _OTHERS if (value := getattr(item, name))}
    return _encode({_ID: item.item_id, **others})
