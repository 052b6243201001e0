"""Where item features come from, by `RECSYS_FEATURE_SOURCE`."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.contracts.errors import Unavailable
from recsys.features.compile import assembler
from recsys.features.definitions import FEATURES
from recsys.features.documents import Document, FixedItems, ItemDocuments
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue
from recsys.pipeline.features import DocumentHydrator, FeatureHydrator
from recsys.pipeline.stages import CandidateHydrator
from serving.settings import FeatureSource

_PAGE = 500


class Documents(Protocol):
    """`recsys.store.nightly.NightlyStore`."""

    def check(self) -> None: ...

    def items(self, item_ids: Sequence[str]) -> Sequence[Document | None]: ...


@dataclass(frozen=True)
class ItemFeatures:
    """`documents` None: live features. `native`: compiled code makes the matrix."""

    source: FeatureSource = FeatureSource.STREAM
    documents: Documents | None = None
    native: bool = False

    @property
    def live(self) -> bool:
        """Whether the columns follow the stream."""
        return self.documents is None

    def hydrator(self, columns: ItemColumns, catalogue: Catalogue) -> CandidateHydrator:
        """For a bundle that is being loaded: NIGHTLY reads all documents now.
        Raises `Unavailable`: the documents cannot be read.
        Raises `FingerprintMismatch`: they are of other feature definitions."""
        assemble = assembler(FEATURES, self.native)
        if self.documents is None:
            return FeatureHydrator(assemble, columns)
        if self.source is FeatureSource.DOCUMENTS:
            with suppress(Unavailable):  # Redis need not be there yet: each read checks again
                self.documents.check()
            return DocumentHydrator(FEATURES, assemble, columns, catalogue, self.documents.items)
        rows = np.arange(len(catalogue), dtype=np.int32)
        ids = catalogue.ids(rows.tolist())
        pages = (self.documents.items(ids[start : start + _PAGE]) for start in range(0, len(ids), _PAGE))
        found = [document for page in pages for document in page]
        arrays = ItemDocuments(FEATURES).arrays(columns, rows, found)
        return FeatureHydrator(assemble, FixedItems(columns, *arrays))
