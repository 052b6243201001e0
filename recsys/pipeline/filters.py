"""Filters that every list needs. All are exact, and required: what must not be shown is not shown."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Candidates, Query, among
from recsys.items.catalogue import Catalogue

SEEN, EXCLUDED, DELETED = "seen", "excluded", "deleted"


class SeenFilter:
    """`stages.Filter`: removes what the user has engaged with (the latest 1 000) and what the request excludes."""

    def __init__(self, name: str = "seen", optional: bool = False) -> None:
        self.name = name
        self.optional = optional

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        return {
            SEEN: among(candidates.rows, query.seen_rows),
            EXCLUDED: among(candidates.rows, query.excluded_rows),
        }


class DeletedFilter:
    """`stages.Filter`: removes items that have left the catalogue since the bundle was made."""

    def __init__(self, catalogue: Catalogue, name: str = "deleted", optional: bool = False) -> None:
        self.name = name
        self.optional = optional
        self._catalogue = catalogue

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        return {DELETED: ~self._catalogue.alive[candidates.rows]}
