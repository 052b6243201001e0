"""Filters that every list needs. They are exact, and required: without them a list could show a hidden item."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Candidates, Query, among
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility

SEEN, EXCLUDED, DELETED = "seen", "excluded", "deleted"


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
class EligibleFilter:
    """`stages.Filter`: removes items that are not out yet, not in their window, not in the request's region, or not
    what its filter wants. Most channels leave them out themselves."""

    eligibility: Eligibility
    name: str = "eligible"
    optional: bool = False

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        if query.eligible is None:
            return {}
        out = np.flatnonzero(~query.eligible.of(candidates.rows))
        masks = {}
        found = self.eligibility.reasons(candidates.rows[out], query.now_ms, query.filter, query.region)
        for reason, holds in found.items():
            masks[reason] = np.zeros(len(candidates), bool)
            masks[reason][out[holds]] = True
        return masks
