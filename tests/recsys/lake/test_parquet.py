"""Columns of one file; and a file whose columns have no readable names is refused like any other damage."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.contracts.errors import InvalidData
from recsys.datasets.sampling import samples
from recsys.items.item_table import read_items
from recsys.lake.parquet import read_batches, read_columns


@pytest.fixture
def misnamed(tmp_path: Path) -> Path:
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ["a"], "misnamed": ["b"]}), path)
    path.write_bytes(path.read_bytes().replace(b"misnamed", b"mis\xdb\xffmed"))
    return path


@pytest.mark.parametrize("read", [read_columns, lambda path, names: list(read_batches(path, names))])
def test_a_name_that_is_not_text(misnamed: Path, read: Callable[[Path, list[str]], object]) -> None:
    with pytest.raises(pa.ArrowInvalid, match="name of a column"):
        read(misnamed, ["item_id"])


def test_readers_say_which_file(misnamed: Path) -> None:
    with pytest.raises(InvalidData, match=r"items\.parquet: not a readable item table"):
        read_items(misnamed)
    with pytest.raises(InvalidData, match=r"items\.parquet: cannot be read"):
        samples(misnamed.parent, [misnamed])


def test_batches_are_the_whole_table(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(2_500)), "b": ["x"] * 2_500})
    pq.write_table(table, tmp_path / "t.parquet")
    batches = list(read_batches(tmp_path / "t.parquet", ["a"], ["c"]))
    assert len(batches) > 1
    assert pa.concat_tables(batches).equals(table.select(["a"]))
    assert read_columns(tmp_path / "t.parquet", ["a"], ["b"]).equals(table)
