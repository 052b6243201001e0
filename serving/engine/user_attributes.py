"""Static attributes of users (age group, registration, …): the latest put, or those of the lake at the start."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import structlog

from recsys.contracts.state import EntityState
from recsys.features.feature_set import FeatureSet
from recsys.lake.parquet import read_columns

_COLUMNS = pa.schema({"user_id": pa.string(), "attributes": pa.map_(pa.string(), pa.string())})
REGION = "region"  # the attribute
_log = structlog.get_logger(__name__)
_NONE: Mapping[str, str] = MappingProxyType({})


class UserAttributes:
    """The lake's, in memory; only those that a feature reads, and the region. A missing or damaged file means none; of
    a damaged one `error` says what it is."""

    def __init__(self, path: Path, features: FeatureSet) -> None:
        wanted = self._wanted = features.user_attributes
        self.error = ""
        self._by_user: dict[str, Mapping[str, str]] = {}
        self._regions: dict[str, str] = {}
        try:
            table = read_columns(path, ["user_id", "attributes"]).cast(_COLUMNS)
        except FileNotFoundError:
            return
        except (pa.ArrowException, OSError) as error:
            self.error = f"{path}: not the lake's table of users: {error}; import the data set again"
            _log.error("users have no static attributes of the lake", reason=self.error)
            return
        for batch in table.to_batches(max_chunksize=10_000):
            users, attributes = (column.to_pylist() for column in batch.columns)
            for user_id, pairs in zip(users, attributes, strict=True):
                read = {name: text for name, text in pairs or () if name in wanted}
                if read:
                    self._by_user[user_id] = read
                if region := dict(pairs or ()).get(REGION):
                    self._regions[user_id] = region

    def of(self, user_id: str, state: EntityState) -> Mapping[str, str]:
        """Attributes in the user's state are newer than the lake's, and replace all of them."""
        if state.attributes is None:
            return self._by_user.get(user_id, _NONE)
        return {name: text for name, text in state.attributes.items() if name in self._wanted}

    def region(self, user_id: str, state: EntityState) -> str:
        """Where the user is, for items that are not available everywhere; empty: unknown."""
        if state.attributes is None:
            return self._regions.get(user_id, "")
        return state.attributes.get(REGION, "")
