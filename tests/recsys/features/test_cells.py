"""Cells as integers: every cell that an event can change has a code of its own, and its name comes back."""

import numpy as np
import pytest

from recsys.contracts.events import Event
from recsys.contracts.state import EntityState
from recsys.contracts.types import EventType
from recsys.features.aggregates import BUCKETS, Entity, parse_cell
from recsys.features.cells import CellCoding, PackedCells, aggregates_of, buckets_of, tiles_of
from recsys.features.definitions import FEATURES
from recsys.features.feature_set import FeatureSet

CODING = CellCoding(FEATURES.aggregates, Entity.USER)
LATEST_TILE = 4_102_444_800_000 // 300_000  # of 5 minutes, in 2100


def cells() -> dict[str, int]:
    names = []
    for number, kind in enumerate(EventType):
        for time_ms in (1, 1_700_000_000_000, 4_102_444_799_999):
            event = Event(
                "1",
                kind,
                "u",
                "i",
                time_ms,
                "r",
                value=5.0,
                context={"categories": "A|B", "creator": f"c{number}"},
            )
            names += [delta.cell for delta in FEATURES.fold(event).user]
    return {name: n for n, name in enumerate(dict.fromkeys(names), 1)}


def packed() -> PackedCells:
    return PackedCells(CODING, *CODING.pack(cells()))


def test_names_and_codes_are_one_to_one() -> None:
    names = list(cells())
    codes, amounts = CODING.pack(cells())
    assert len(set(codes.tolist())) == len(names) > 50
    assert codes.min() >= 0
    assert [CODING.name(code) for code in codes.tolist()] == names
    assert amounts.tolist() == list(cells().values())


def test_the_parts_of_a_code_are_those_of_the_name() -> None:
    codes, _ = CODING.pack(cells())
    parts = zip(
        aggregates_of(codes).tolist(), tiles_of(codes).tolist(), buckets_of(codes).tolist(), strict=True
    )
    for name, (number, tile, bucket) in zip(cells(), parts, strict=True):
        cell = parse_cell(name)
        assert CODING.aggregates[number].name == cell.name
        assert (tile, bucket) == (max(cell.tile, 0), max(cell.bucket, 0))


def test_there_is_room_for_every_tile_and_bucket() -> None:
    name = f"{next(a.name for a in CODING.aggregates if a.hop_ms and a.split)}@{LATEST_TILE}#{BUCKETS - 1}"
    assert CODING.name(CODING.code(name)) == name


def test_packed_cells_are_the_mapping_that_they_stand_for() -> None:
    assert packed() == cells()
    assert EntityState(packed()) == EntityState(cells())
    assert len(packed()) == len(cells())
    assert not PackedCells(CODING, np.empty(0, np.int64), np.empty(0, np.int64))
    assert "no such cell" not in packed()


def test_reading_by_name_keeps_the_arrays_and_changing_drops_them() -> None:
    state = EntityState(packed())
    name = next(iter(state.cells))
    assert isinstance(state.cells, PackedCells)
    assert state.cells.packed(CODING) is not None
    state.cells[name] = 7
    assert state.cells.packed(CODING) is None
    del state.cells[next(reversed(list(state.cells)))]
    codes, amounts = CODING.pack(state.cells)
    assert dict(zip(map(CODING.name, codes.tolist()), amounts.tolist(), strict=True)) == dict(state.cells)
    assert len(state.cells) == len(cells()) - 1


def test_codes_of_another_feature_set_are_not_taken_for_ones_own() -> None:
    fewer = FeatureSet(FEATURES.features[3:])
    other = CellCoding(fewer.aggregates, Entity.USER)
    assert packed().packed(other) is None
    codes, _ = other.pack(packed())
    known = {a.name for a in other.aggregates}
    assert [number < len(other.aggregates) for number in aggregates_of(codes).tolist()] == [
        parse_cell(name).name in known for name in cells()
    ]


@pytest.mark.parametrize("entity", [Entity.USER, Entity.ITEM])
def test_an_equal_coding_reads_the_arrays(entity: Entity) -> None:
    one, other = (CellCoding(FEATURES.aggregates, entity) for _ in range(2))
    empty = PackedCells(one, np.empty(0, np.int64), np.empty(0, np.int64))
    assert empty.packed(other) is not None
