"""Filters that every list needs. They are exact, and required: without them a list could show a hidden item."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Candidates, Query, among
from recsys.items.catalogue import Catalogue

SEEN, EXCLUDED, DELETED, UPCOMING = "seen", "excluded", "deleted", "upcoming"


@dataclass(frozen=True)
class SeenFilter:
    """`stages.Filter`: removes the latest 1 000 items that the user engaged with and what the request excludes."""

    name: str = "seen"
    optional: bool = False

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        return {
            SEEN: among(candidates.rows, query.seen_rows),
            EXCLUDED: among(candidates.rows, query.excluded_rows),
        }


@dataclass(frozen=True, eq=False)
class DeletedFilter:
    """`stages.Filter`: removes items deleted from the catalogue since the bundle was published."""

    catalogue: Catalogue
    name: str = "deleted"
    optional: bool = False

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        return {DELETED: ~self.catalogue.alive[candidates.rows]}


@dataclass(frozen=True, eq=False)
class UpcomingFilter:
    """`stages.Filter`: removes items whose `created_ms` is still to come, such as announced ones."""

    catalogue: Catalogue
    name: str = "upcoming"
    optional: bool = False

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        return {UPCOMING: self.catalogue.created_ms[candidates.rows] > query.now_ms}
