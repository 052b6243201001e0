"""A data set that a mapping describes: MovieLens, RecBole's files, and every user's own tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from recsys.datasets.base import Batch
from recsys.datasets.mapper import map_events, map_items, map_users
from recsys.datasets.mapping import Mapping


@dataclass(frozen=True)
class MappedDataset:
    """`Dataset` by a mapping; the files lie in `folder`."""

    name: str
    folder: Path
    mapping: Mapping

    def items(self) -> Iterator[Batch]:
        return map_items(self.folder, self.mapping.items) if self.mapping.items else iter(())

    def users(self) -> Iterator[Batch]:
        return map_users(self.folder, self.mapping.users) if self.mapping.users else iter(())

    def events(self, catalogue: pa.Table) -> Iterator[Batch]:
        return map_events(self.folder, self.mapping.events, catalogue)
