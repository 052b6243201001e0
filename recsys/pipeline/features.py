"""Candidate hydrator: the feature matrix that the ranker reads, and that the impression log keeps."""

from dataclasses import replace

from recsys.features.assemble import assemble
from recsys.features.feature_set import FeatureSet
from recsys.features.item_columns import ItemColumns
from recsys.request import Candidates, Query


class FeatureHydrator:
    """`stages.CandidateHydrator`: features of the user, the items and both, as of the request's time.

    Without it the scorer has nothing to read, so it is required; it touches no network.
    """

    def __init__(
        self, features: FeatureSet, columns: ItemColumns, name: str = "features", optional: bool = False
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
        matrix = assemble(
            self._features,
            query.user,
            query.attributes,
            self._columns,
            candidates.rows,
            query.now_ms,
            query.context,
        )
        return replace(candidates, features=matrix)
