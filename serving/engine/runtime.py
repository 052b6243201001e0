"""A bundle made ready to answer: its item table, its models and index, and the request path composed of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidBundle
from recsys.contracts.request import Rows
from recsys.contracts.types import Head
from recsys.features.definitions import ENGAGED_VISITS, FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue
from recsys.items.item_table import read_items
from recsys.pipeline.filters import DeletedFilter, SeenFilter
from recsys.pipeline.hydrators import HistoryHydrator
from recsys.pipeline.pipeline import Pipeline
from recsys.pipeline.stages import QueryHydrator, SideEffect, Source
from recsys.pipeline.trending import Trending
from recsys.ranking.calibration import read_calibrations
from recsys.ranking.impression_discount import ImpressionDiscount
from recsys.ranking.scorer import RankerSession, RankScorer
from recsys.ranking.value_model import DEFAULT_WEIGHTS, ValueModel
from recsys.recall.fresh import FreshSource
from recsys.recall.item_to_item import ItemToItemSource
from recsys.recall.live_items import LiveItems
from recsys.recall.merge import QuotaMerger
from recsys.recall.popular import PopularInCategoriesSource, PopularSource, popularity
from recsys.recall.repeat_consumption import RepeatConsumption, RepeatConsumptionSource
from recsys.recall.two_tower import TwoTowerSource
from recsys.recall.vector_index import NO_ROW
from recsys.rerank.reranker import RerankConfig, Reranker
from recsys.rerank.rule_stages import PinnedSource, RuleBoost, RuleFilter
from recsys.rerank.rules import RuleBook
from serving.engine.feature_source import ItemFeatures
from serving.engine.golden import check_golden
from serving.engine.index_backend import IndexPlace
from serving.engine.live_catalogue import LiveCatalogue
from serving.engine.user_vectors import CachedUserTower
from serving.remote.client import TOGETHER, Apart

USER_FEATURES = "user_features"  # how `degraded` names a store that does not give the user's state

_CALIBRATION = "calibration.json"
_BUNDLE_BYTES = 28_000_000  # sessions of onnxruntime and what does not grow with the catalogue
_ITEM_BYTES = 1_100  # of a catalogue entry, its features and its Python objects, beside what the files hold
RERANK_POOL = 100  # candidates that compete for the list: five times what is shown
_SHOWN = FEATURES.names.index("item_shown_to_user_decay7d")
_PATHS = 64  # request paths of one bundle that are kept composed
# the share of the candidates that each recall channel is sure of; the rest is fused by rank
_QUOTAS: Mapping[str, float] = {
    "two_tower": 0.4,
    "item_to_item": 0.15,
    "popular_in_categories": 0.1,
    "popular": 0.1,
    "fresh": 0.05,
    "repeat_consumption": 0.02,
}


@dataclass(frozen=True)
class PathConfig:
    """What an experiment may change of the request path. Hashable: pipelines are kept by it."""

    candidates: int = 500
    rerank: RerankConfig = field(default_factory=lambda: RerankConfig(pool=RERANK_POOL))
    weights: tuple[tuple[Head, float], ...] = tuple(DEFAULT_WEIGHTS.items())  # of the value model
    shown_discount: float = 1.0  # what each earlier impression of an item leaves of its value

    @cached_property
    def text(self) -> str:
        """All of it as a key that is compared and hashed at no price."""
        return repr(self)


@dataclass(frozen=True)
class Runtime:
    """A loaded bundle. One is shared by all requests; a new bundle is a new one.

    `compose` makes another request path of the same models, index and catalogue.
    """

    bundle: Bundle
    catalogue: Catalogue
    live: LiveCatalogue
    tower: CachedUserTower
    pipeline: Pipeline
    neighbours: NDArray[np.int32]
    neighbour_scores: NDArray[np.float32]
    path: PathConfig  # what `pipeline` was composed of
    compose: Callable[[PathConfig], Pipeline] = field(repr=False)

    def on(self, path: PathConfig) -> "Runtime":
        """This bundle with another request path, composed once."""
        if path is self.path:  # as a rule; comparing two takes longer than many a stage
            return self
        pipeline = self.compose(path)
        return self if pipeline is self.pipeline else replace(self, pipeline=pipeline, path=path)

    def similar(self, row: int, k: int) -> tuple[Rows, NDArray[np.float32]]:
        """At most k living neighbours of an item and their scores, the nearest first."""
        if row >= len(self.neighbours):  # newer than the bundle
            return np.empty(0, np.int32), np.empty(0, np.float32)
        rows, scores = self.neighbours[row], self.neighbour_scores[row]
        kept = np.flatnonzero((rows != NO_ROW) & self.catalogue.alive[rows])[:k]
        return rows[kept], scores[kept]


@dataclass(frozen=True)
class Limits:
    """How much of everything one request takes."""

    path: PathConfig = field(default_factory=PathConfig)
    history: int = ENGAGED_VISITS.size
    vector_cache_bytes: int = 0
    batch: int = 1
    batch_wait_ms: float = 0.0
    repeat: RepeatConsumption = field(default_factory=RepeatConsumption)
    index: IndexPlace = field(default_factory=IndexPlace)
    features: ItemFeatures = field(default_factory=ItemFeatures)


def weigh(bundle: Bundle) -> int:
    """Bytes that the bundle is thought to take in memory: its files, most of which are kept as they are, and what
    was measured beside them with 5 000 and 30 000 items (34 and 66 MiB of resident memory each)."""
    files = sum(bundle.file(name).stat().st_size for name in bundle.manifest.files)
    return _BUNDLE_BYTES + files + _ITEM_BYTES * int(pq.read_metadata(bundle.file("items.parquet")).num_rows)


def build_runtime(
    bundle: Bundle,
    read_user: QueryHydrator,
    limits: Limits,
    rules: RuleBook | None,
    side_effects: Callable[[Bundle, Catalogue], Sequence[SideEffect]],
    apart: Apart = TOGETHER,
) -> Runtime:
    """Load every file of the bundle, check the models, compose the request path.

    Args:
        apart: which parts other processes have; they load the bundle first.

    Raises:
        InvalidBundle: a file cannot be used, two files disagree, or the golden outputs differ.
    """
    check_golden(bundle)
    items = read_items(bundle.file("items.parquet"))
    catalogue = Catalogue(items)
    columns = ItemColumns(items, FEATURES)
    arrays = load_file(bundle.file("item_vectors.safetensors"))
    vectors = arrays["vectors"]
    near = load_file(bundle.file("item_to_item.safetensors"))
    best = load_file(bundle.file("popular.safetensors"))
    for name, n in (
        ("item_vectors", len(vectors)),
        ("item_to_item", len(near["neighbours"])),
    ):
        if n != len(items):
            raise InvalidBundle(f"{bundle.path.name}: {name} has {n} rows, the item table {len(items)}")
    table = popularity(best["rows"], best["scores"], catalogue)
    index = limits.index.open(bundle, vectors)
    tower = CachedUserTower(
        bundle.file("user_tower.onnx"), limits.vector_cache_bytes, limits.batch, limits.batch_wait_ms / 1e3
    )
    trending = Trending(FEATURES, columns, catalogue, table)
    of_items = limits.features
    live = LiveCatalogue(
        catalogue,
        LiveItems(catalogue, index, vectors, arrays.get("attributes")),
        columns,
        trending if of_items.live else None,
        of_items.live,
    )
    hydrator = of_items.hydrator(columns, catalogue)
    calibrations = (
        read_calibrations(bundle.file(_CALIBRATION)) if _CALIBRATION in bundle.manifest.files else {}
    )
    apart.prepare(bundle.manifest.version)
    ranker = apart.ranker(bundle) or RankerSession(bundle.file("ranker.onnx"))
    effects = side_effects(bundle, catalogue)

    @lru_cache(_PATHS)
    def compose(path: PathConfig) -> Pipeline:
        n = path.candidates
        in_categories = PopularInCategoriesSource(table, catalogue, limit=n // 4)
        popular = PopularSource(table, limit=n, optional=False)  # whatever is late or away, there is a list
        for source in (popular, in_categories):
            trending.keep(source)
        sources: list[Source] = [
            apart.two_tower(bundle, catalogue, 3 * n // 4) or TwoTowerSource(tower, index, limit=3 * n // 4),
            ItemToItemSource(near["neighbours"], near["scores"], limit=n // 3),
            in_categories,
            popular,
            FreshSource(catalogue, limit=n // 10),
            *([RepeatConsumptionSource()] if limits.repeat != RepeatConsumption() else []),
        ]
        value = ValueModel(dict(path.weights))
        return Pipeline(
            query_hydrators=[read_user, HistoryHydrator(catalogue, limits.history, limits.repeat)],
            sources=[*sources, *([PinnedSource(rules, catalogue)] if rules else [])],
            merger=QuotaMerger({name: int(share * n) for name, share in _QUOTAS.items()}, limit=n),
            candidate_hydrators=[hydrator],
            filters=[
                SeenFilter(),
                DeletedFilter(catalogue),
                *([RuleFilter(rules, catalogue)] if rules else []),
            ],
            scorers=[
                RankScorer(ranker, catalogue.trained, calibrations, value),
                *([ImpressionDiscount(_SHOWN, path.shown_discount)] if path.shown_discount != 1 else []),
                *([RuleBoost(rules, catalogue)] if rules else []),
            ],
            selector=Reranker(path.rerank, catalogue, index.vectors, rules),
            side_effects=effects,
        )

    pipeline = compose(limits.path)
    near_rows, near_scores = near["neighbours"], near["scores"]
    return Runtime(bundle, catalogue, live, tower, pipeline, near_rows, near_scores, limits.path, compose)
