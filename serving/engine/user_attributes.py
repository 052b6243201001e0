"""Static attributes of users (age group, registration, …): what was put last, or what the lake had at the start."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from recsys.contracts.state import EntityState
from recsys.features.feature_set import FeatureSet
from recsys.lake.parquet import read_columns

_NONE: Mapping[str, str] = MappingProxyType({})


class UserAttributes:
    """The lake's by user id, in memory; only those that some feature reads. A missing file means that it has none."""

    def __init__(self, path: Path, features: FeatureSet) -> None:
        wanted = self._wanted = features.user_attributes
        self._by_user: dict[str, Mapping[str, str]] = {}
        if not wanted or not path.exists():
            return
        table = read_columns(path, ["user_id", "attributes"])
        for batch in table.to_batches(max_chunksize=10_000):
            users, attributes = (column.to_pylist() for column in batch.columns)
            for user_id, pairs in zip(users, attributes, strict=True):
                kept = {name: text for name, text in pairs or () if name in wanted}
                if kept:
                    self._by_user[user_id] = kept

    def of(self, user_id: str, state: EntityState) -> Mapping[str, str]:
        """What the store has in the user's state is newer than the lake's table, and replaces all of it."""
        if state.attributes is None:
            return self._by_user.get(user_id, _NONE)
        return {name: text for name, text in state.attributes.items() if name in self._wanted}
