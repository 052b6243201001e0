"""The lake's item table, read while somebody writes it."""

import threading
from pathlib import Path

from recsys.contracts.types import Item
from recsys.datasets.catalogue import items_path
from recsys.items.item_table import items_table, read_items
from recsys.lake.lake import write_parquet

FEW, MANY = ([Item(f"i{n}", f"Item {n}", (f"c{n % 7}",)) for n in range(size)] for size in (3, 3_000))


def test_a_reader_sees_one_table_or_the_other(tmp_path: Path) -> None:
    path, stop = items_path(tmp_path), threading.Event()
    path.parent.mkdir(parents=True)
    write_parquet(path, items_table(FEW))

    def replace() -> None:
        while not stop.is_set():
            for items in (MANY, FEW):
                write_parquet(path, items_table(items))

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        sizes = {len(read_items(items_path(tmp_path))) for _ in range(100)}
    finally:
        stop.set()
        writer.join()
    assert sizes <= {3, 3_000}
