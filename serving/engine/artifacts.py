"""What is loaded from a bundle: its item table, models and index, and the tables of the recall channels.

All requests share it. The item feed keeps catalogue, index and feature columns current while the bundle is served.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from recsys.bundle import Bundle
from recsys.contracts.eligible import Eligible
from recsys.contracts.errors import InvalidBundle
from recsys.contracts.filters import Filter
from recsys.contracts.request import Rows
from recsys.contracts.types import Head
from recsys.features.definitions import FEATURES, WEIGHING
from recsys.features.item_columns import ItemColumns
from recsys.features.tally import TallyReader
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility
from recsys.items.item_table import iterate_items
from recsys.pipeline.stages import CandidateHydrator
from recsys.pipeline.trending import Trending
from recsys.ranking.calibration import Calibration, read_calibrations
from recsys.ranking.compiled import KERNEL
from recsys.ranking.edge import EDGE, EdgeTable
from recsys.ranking.scorer import TasteColumn
from recsys.ranking.taste import TASTE, TasteModel, read_taste
from recsys.ranking.uncertainty import UNCERTAINTY, ItemUncertainty, read_uncertainty
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.live_index import LiveIndex
from recsys.recall.live_items import LiveItems
from recsys.recall.popular import Popularity, popularity
from recsys.recall.vector_index import NO_ROW
from serving.engine.feature_source import ItemFeatures
from serving.engine.golden import check_tower
from serving.engine.index_backend import IndexPlace
from serving.engine.live_catalogue import LiveCatalogue
from serving.engine.user_vectors import CachedUserTower

_CALIBRATION = "calibration.json"
_BUNDLE_BYTES = 28_000_000  # sessions of onnxruntime and what does not grow with the catalogue
_ITEM_BYTES = 900  # of a catalogue entry, its features and its Python objects, in addition to the files


@dataclass(frozen=True)
class LoadOptions:
    """Where vectors are searched, where item features come from, and how the user tower runs."""

    index: IndexPlace = field(default_factory=IndexPlace)
    item_features: ItemFeatures = field(default_factory=ItemFeatures)
    vector_cache_bytes: int = 0
    batch: int = 1
    batch_wait_ms: float = 0.0
    native: bool = False  # compiled code runs the user tower, if the bundle has weights for it
    trust: bool = True  # items' engagement counts as far as impressions explain it


@dataclass(frozen=True)
class Artifacts:
    """One loaded bundle. `neighbours` and `neighbour_scores` have a row for each item of the bundle."""

    bundle: Bundle
    catalogue: Catalogue
    eligibility: Eligibility
    index: LiveIndex
    tower: CachedUserTower
    neighbours: NDArray[np.int32]
    neighbour_scores: NDArray[np.float32]
    popularity: Popularity
    trending: Trending
    live: LiveCatalogue
    item_features: CandidateHydrator
    calibrations: Mapping[Head, Calibration]
    taste: TasteColumn | None
    uncertainty: ItemUncertainty | None
    edge: EdgeTable | None  # rows of items for devices; None: the bundle has no model for them
    dimension: int  # d of `vectors`

    @property
    def sameness(self) -> float:
        """Log odds of a click for each look at an earlier item of the same category in the list; 0: not learnt."""
        return self.taste.model.taste.sameness if self.taste else 0.0

    def vectors(self, rows: Rows) -> NDArray[np.float32]:
        """(n, d): the two-tower's vectors of items, without the linear part; zeros for an item without one."""
        return np.ascontiguousarray(self.index.vectors(rows)[:, : self.dimension])

    def similar(
        self, row: int, k: int, now_ms: int, asked: Filter | None = None, region: str = ""
    ) -> tuple[Rows, NDArray[np.float32]]:
        """At most k neighbours of an item that time, filter and region leave, and their scores, the best first: the
        bundle's, then those of the nearest vectors, which include items newer than the bundle. A vector's cosine c
        scores max(c, 0) / 2 of the lowest score of the bundle's, or of 1.
        Raises `InvalidFilter`: the catalogue does not have what the filter asks for."""
        eligible = self.eligibility.of(now_ms, asked, region)
        rows, scores = self._neighbours_of(row, eligible)
        vector = np.zeros((1, self.index.dimension), np.float32)
        vector[:, : self.dimension] = self.vectors(np.array([row], np.int32))
        if len(rows) >= k or not vector.any():
            return rows[:k], scores[:k]
        # the item itself and its neighbours may come first
        found = self.index.search(vector, k + len(rows) + 1, eligible)
        near = found.of(0)
        new = self.catalogue.alive[near] & (near != row) & ~np.isin(near, rows)
        cosines = found.scores[0, : len(near)][new]
        below = scores.min(initial=1.0) / 2 * np.maximum(cosines, 0)
        return np.append(rows, near[new])[:k], np.append(scores, below).astype(np.float32)[:k]

    def popular(self, k: int, now_ms: int, region: str = "") -> Rows:
        """At most k items that may be shown to anybody, the most popular now first."""
        rows, eligible = self.trending.current.rows, self.eligibility.of(now_ms, None, region)
        may = self.catalogue.alive[rows]
        return rows[may if eligible is None else may & eligible.of(rows)][:k]

    def _neighbours_of(self, row: int, eligible: Eligible | None) -> tuple[Rows, NDArray[np.float32]]:
        """Those of the bundle that are available; none for an item newer than the bundle."""
        if row >= len(self.neighbours):
            return np.empty(0, np.int32), np.empty(0, np.float32)
        rows, scores = self.neighbours[row], self.neighbour_scores[row]
        there = (rows != NO_ROW) & self.catalogue.alive[rows]
        found = np.flatnonzero(there if eligible is None else there & eligible.of(rows))
        return rows[found], scores[found]


def load_artifacts(bundle: Bundle, options: LoadOptions) -> Artifacts:
    """Load every file of the bundle but the ranker.
    Raises `InvalidBundle`: a file cannot be used, two files disagree, or the golden outputs differ."""
    catalogue = Catalogue(iterate_items(bundle.file("items.parquet")))
    vectors = ItemVectors.of(bundle.arrays("item_vectors.safetensors"))
    near = bundle.arrays("item_to_item.safetensors")
    best = load_file(bundle.file("popular.safetensors"))
    for name, n in (("item_vectors", len(vectors)), ("item_to_item", len(near["neighbours"]))):
        if n != len(catalogue):
            raise InvalidBundle(f"{bundle.path.name}: {name} has {n} rows, the item table {len(catalogue)}")
    weighing = replace(WEIGHING, base=bundle.manifest.item_weights) if options.trust else None
    columns = ItemColumns(catalogue.items, FEATURES, weighing)
    index = options.index.open(bundle, vectors)
    popular = popularity(best["rows"], best["scores"], catalogue)
    trending = Trending(FEATURES, columns, catalogue, popular)
    live = LiveItems(catalogue, index, vectors)
    tower = CachedUserTower(
        bundle.file("user_tower.onnx"),
        vectors.vectors,
        options.vector_cache_bytes,
        options.batch,
        options.batch_wait_ms / 1e3,
        options.native,
        vectors.linear,
    )
    check_tower(bundle, tower)
    features = options.item_features
    calibrated = _CALIBRATION in bundle.manifest.files
    return Artifacts(
        bundle=bundle,
        catalogue=catalogue,
        eligibility=Eligibility(catalogue),
        index=index,
        tower=tower,
        neighbours=near["neighbours"],
        neighbour_scores=near["scores"],
        popularity=popular,
        trending=trending,
        live=LiveCatalogue(catalogue, live, columns, trending if features.live else None, features.live),
        item_features=features.hydrator(columns, catalogue),
        calibrations=read_calibrations(bundle.file(_CALIBRATION)) if calibrated else {},
        taste=_taste(bundle, columns),
        uncertainty=_uncertainty(bundle, columns) if features.live else None,
        edge=EdgeTable(bundle.arrays(KERNEL)) if EDGE in bundle.manifest.files else None,
        dimension=vectors.dimension,
    )


def _taste(bundle: Bundle, columns: ItemColumns) -> TasteColumn | None:
    # a file that the manifest does not list has no checksum: it was not published
    taste = read_taste(bundle.path) if TASTE in bundle.manifest.files else None
    if taste is None:
        return None
    return TasteColumn(TasteModel(taste, FEATURES), TallyReader(FEATURES), columns.categories_of)


def _uncertainty(bundle: Bundle, columns: ItemColumns) -> ItemUncertainty | None:
    if UNCERTAINTY not in bundle.manifest.files:
        return None
    return ItemUncertainty.of(read_uncertainty(bundle.path), columns, FEATURES)


def estimated_bytes(bundle: Bundle) -> int:
    """Memory that the bundle is estimated to take: its files, most of which stay in memory as they are, and what was
    measured in addition with 100,000 items (90 MiB of the process's own memory)."""
    files = sum(bundle.file(name).stat().st_size for name in bundle.manifest.files)
    return _BUNDLE_BYTES + files + _ITEM_BYTES * int(pq.read_metadata(bundle.file("items.parquet")).num_rows)
