"""Candidate hydrators: the feature matrix that the ranker reads, and that the impression log keeps."""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from recsys.contracts.request import Candidates, Query
from recsys.features.assemble import ItemSide, assemble
from recsys.features.documents import Document, FixedItems, ItemDocuments
from recsys.features.feature_set import FeatureSet
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue


class FeatureHydrator:
    """`stages.CandidateHydrator`: features of the user, the items and both, as of the request's time.

    Without it the scorer has nothing to read, so it is required; it touches no network.
    """

    def __init__(
        self, features: FeatureSet, columns: ItemSide, name: str = "features", optional: bool = False
    ) -> None:
        """
        Args:
            columns: rows as the candidates number them; made with the same `features`.
        """
        self.name = name
        self.optional = optional
        self._features = features
        self._columns = columns

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates:
        """Sets `features`, (N, D) float32."""
        return _hydrated(self._features, self._columns, query, candidates)


class DocumentHydrator:
    """`stages.CandidateHydrator`: the same matrix, its item side read for each request, a document an item."""

    def __init__(
        self,
        features: FeatureSet,
        columns: ItemColumns,
        catalogue: Catalogue,
        read: Callable[[Sequence[str]], Sequence[Document | None]],
        name: str = "features",
        optional: bool = False,
    ) -> None:
        """
        Args:
            columns: what is known of the items without a read.
            read: item ids → their documents; raises `Unavailable`.
        """
        self.name = name
        self.optional = optional
        self._features = features
        self._columns = columns
        self._catalogue = catalogue
        self._read = read
        self._documents = ItemDocuments(features)

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates:
        """Sets `features`, (N, D) float32."""
        rows = candidates.rows
        found = self._read(self._catalogue.ids(rows.tolist()))
        items = FixedItems(self._columns, *self._documents.arrays(self._columns, rows, found), aligned=True)
        return _hydrated(self._features, items, query, candidates)


def _hydrated(features: FeatureSet, items: ItemSide, query: Query, candidates: Candidates) -> Candidates:
    matrix = assemble(
        features, query.user, query.attributes, items, candidates.rows, query.now_ms, query.context
    )
    return replace(candidates, features=matrix)
