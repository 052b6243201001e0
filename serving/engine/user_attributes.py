"""Static attributes of users (age group, registration, …): the latest put, or those of the lake at the start."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from recsys.contracts.state import EntityState
from recsys.features.feature_set import FeatureSet
from recsys.lake.parquet import read_columns

_NONE: Mapping[str, str] = MappingProxyType({})


class UserAttributes:
    """The lake's, in memory; only those that a feature reads. A missing file means none."""

    def __init__(self, path: Path, features: FeatureSet) -> None:
        wanted = self._wanted = features.user_attributes
        self._by_user: dict[str, Mapping[str, str]] = {}
        if not wanted or not path.exists():
            return
        table = read_columns(path, ["user_id", "attributes"])
        for batch in table.to_batches(max_chunksize=10_000):
            users, attributes = (column.to_pylist() for column in batch.columns)
            for user_id, pairs in zip(users, attributes, strict=True):
                read = {name: text for name, text in pairs or () if name in wanted}
                if read:
                    self._by_user[user_id] = read

    def of(self, user_id: str, state: EntityState) -> Mapping[str, str]:
        """Attributes in the user's state are newer than the lake's, and replace all of them."""
        if state.attributes is None:
            return self._by_user.get(user_id, _NONE)
        return {name: text for name, text in state.attributes.items() if name in self._wanted}
