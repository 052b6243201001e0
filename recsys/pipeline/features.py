"""Candidate hydrators: the feature matrix that the ranker reads and the impression log records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from recsys.contracts.request import Candidates, Query
from recsys.features.assemble import ItemSide
from recsys.features.compile import Assemble
from recsys.features.documents import Document, FixedItems, ItemDocuments
from recsys.features.feature_set import FeatureSet
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue


@dataclass(frozen=True, eq=False)
class FeatureHydrator:
    """`stages.CandidateHydrator`: features of the user, the items and both at the request's time.

    Required, since the scorer reads nothing else; it needs no network.

    columns: rows as the candidates number them, of the same features as `assemble`.
    """

    assemble: Assemble
    columns: ItemSide
    name: str = "features"
    optional: bool = False

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates:
        """Sets `features`, (N, D) float32."""
        return _hydrated(self.assemble, self.columns, query, candidates)


@dataclass(eq=False)
class DocumentHydrator:
    """`stages.CandidateHydrator`: the same matrix; each request reads the item side as one document per item.

    columns: what is known of the items without a read.
    read: item ids → their documents; raises `Unavailable`.
    """

    features: FeatureSet
    assemble: Assemble
    columns: ItemColumns
    catalogue: Catalogue
    read: Callable[[Sequence[str]], Sequence[Document | None]]
    name: str = "features"
    optional: bool = False

    def __post_init__(self) -> None:
        self._documents = ItemDocuments(self.features)

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates:
        """Sets `features`, (N, D) float32."""
        rows = candidates.rows
        found = self.read(self.catalogue.ids(rows.tolist()))
        items = FixedItems(self.columns, *self._documents.arrays(self.columns, rows, found), aligned=True)
        return _hydrated(self.assemble, items, query, candidates)


def _hydrated(assemble: Assemble, items: ItemSide, query: Query, candidates: Candidates) -> Candidates:
    matrix = assemble(query.user, query.attributes, items, candidates.rows, query.now_ms, query.context)
    return replace(candidates, features=matrix)
