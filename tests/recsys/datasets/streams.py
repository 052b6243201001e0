"""A data set as streams of `Item`, `User` and `Event` objects."""

from collections.abc import Iterator

import pyarrow as pa

from recsys.contracts.errors import InvalidData
from recsys.contracts.events import Event
from recsys.contracts.types import Item, User
from recsys.datasets.base import Batch, Dataset, sealed
from recsys.datasets.catalogue import table_users
from recsys.items.item_table import ITEM_SCHEMA, table_items
from recsys.lake.first_of_each import first_of_each
from recsys.lake.lake import table_events


def read_items(dataset: Dataset) -> Iterator[Item]:
    """The catalogue in file order.

    Raises:
        InvalidData: at the first broken row; the importer rejects that row alone.
    """
    for rows in _whole(dataset.items()):
        yield from table_items(rows)


def read_users(dataset: Dataset) -> Iterator[User]:
    """Known users in file order.

    Raises:
        InvalidData: at the first broken row.
    """
    for rows in _whole(dataset.users()):
        yield from table_users(rows)


def read_events(dataset: Dataset) -> Iterator[Event]:
    """The events of each batch in turn, duplicates included. Also holds the catalogue.

    Raises:
        InvalidData: at the first broken row.
    """
    items = pa.concat_tables([ITEM_SCHEMA.empty_table(), *_whole(dataset.items())])
    for rows in _whole(dataset.events(first_of_each(items, "item_id"))):
        yield from table_events(sealed(rows, dataset.name))


def _whole(batches: Iterator[Batch]) -> Iterator[pa.Table]:
    for batch in batches:
        if batch.broken:
            raise InvalidData(str(batch.broken[0]))
        yield batch.rows
