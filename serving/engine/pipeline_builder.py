"""The request path of a bundle as one list of stages: `PipelineBuilder.build` is the diagram."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import EventType, Head
from recsys.features.definitions import ENGAGED_VISITS, FEATURES
from recsys.items.catalogue import Catalogue
from recsys.models.encoding import OFFSETS
from recsys.pipeline.compiled_recall import CompiledRecall
from recsys.pipeline.filters import DeletedFilter, EligibleFilter, SeenFilter
from recsys.pipeline.hydrators import EligibilityHydrator, HistoryHydrator
from recsys.pipeline.pipeline import Pipeline
from recsys.pipeline.stages import QueryHydrator, SideEffect, Source
from recsys.ranking.compiled import open_ranker
from recsys.ranking.impression_discount import ImpressionDiscount
from recsys.ranking.scorer import Ranker, RankScorer
from recsys.ranking.taste import TASTE
from recsys.ranking.value_model import DEFAULT_WEIGHTS, ValueModel
from recsys.recall.filtered import FilteredSource
from recsys.recall.fresh import FreshSource
from recsys.recall.item_to_item import ItemToItemSource
from recsys.recall.merge import QuotaMerger
from recsys.recall.popular import PopularInCategoriesSource, PopularSource
from recsys.recall.repeat_consumption import RANKS, RepeatConsumptionSource, RepeatPolicy
from recsys.recall.two_tower import TwoTowerSource
from recsys.rerank.reranker import RerankConfig, Reranker
from recsys.rerank.rule_stages import PinnedSource, RuleBoost, RuleFilter
from recsys.rerank.rules import RuleBook
from serving.engine.artifacts import Artifacts
from serving.engine.golden import check_ranker

RERANK_POOL = 100  # candidates that compete for the list: five times what is shown
_SHOWN = FEATURES.names.index("item_looked_by_user_decay7d")
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
    """What an experiment may change of the request path. Hashable: pipelines are cached by it."""

    candidates: int = 500
    rerank: RerankConfig = field(default_factory=lambda: RerankConfig(pool=RERANK_POOL))
    weights: tuple[tuple[Head, float], ...] = tuple(DEFAULT_WEIGHTS.items())  # of the value model
    shown_discount: float = 1.0  # the factor by which each earlier impression of an item lowers its value

    @cached_property
    def text(self) -> str:
        """All of it as a key that is cheap to compare and to hash."""
        return repr(self)


class LocalServices:
    """User tower with index, and ranker, in this process; `serving.remote.client` calls other processes instead."""

    def prepare(self, version: str) -> None:
        """Called before this process answers with a bundle."""

    def ranker(self, bundle: Bundle, native: bool) -> Ranker:
        """Raises `InvalidBundle`: it cannot be used, or computes other values than the golden outputs."""
        ranker = open_ranker(bundle.path, native)
        check_ranker(bundle, ranker)
        return ranker

    def two_tower(self, artifacts: Artifacts, limit: int) -> Source:
        return TwoTowerSource(artifacts.tower, artifacts.index, limit=limit)


@dataclass(frozen=True)
class PipelineConfig:
    """What the request paths of every bundle have in common. `services`: where tower, index and ranker run. `native`:
    compiled code stands in for stages. `repeats`: None: as each bundle has learnt."""

    read_user: QueryHydrator
    side_effects: Callable[[Bundle, Catalogue], Sequence[SideEffect]] = lambda bundle, catalogue: ()
    path: PathConfig = field(default_factory=PathConfig)
    rules: RuleBook | None = None
    repeats: RepeatPolicy | None = None
    services: LocalServices = field(default_factory=LocalServices)
    native: bool = False


class PipelineBuilder:
    """The stages of one bundle, for each `PathConfig` that an experiment asks for."""

    def __init__(self, artifacts: Artifacts, config: PipelineConfig) -> None:
        self._artifacts = artifacts
        self._config = config
        self.ranker = config.services.ranker(artifacts.bundle, config.native)
        _check_width(self.ranker, artifacts)
        self._side_effects = config.side_effects(artifacts.bundle, artifacts.catalogue)

    def build(self, path: PathConfig) -> Pipeline:
        """The diagram: query hydrators → recall sources → merger → candidate hydrators → filters → scorers → selector
        → side effects."""
        loaded, config, n = self._artifacts, self._config, path.candidates
        catalogue, rules = loaded.catalogue, config.rules
        in_categories = PopularInCategoriesSource(loaded.popularity, catalogue, limit=n // 4)
        popular = PopularSource(loaded.popularity, limit=n, optional=False)  # so that there is always a list
        for source in (popular, in_categories):
            loaded.trending.keep(source)
        blocked = [RuleFilter(rules, loaded.eligibility)] if rules else []
        repeats = repeats_of(loaded.bundle) if config.repeats is None else config.repeats
        history = HistoryHydrator(catalogue, ENGAGED_VISITS.size, repeats, config.native)
        eligible = EligibleFilter(loaded.eligibility)
        value = ValueModel(dict(path.weights))
        sources: list[Source] = [
            config.services.two_tower(loaded, limit=3 * n // 4),
            ItemToItemSource(loaded.neighbours, loaded.neighbour_scores, limit=n // 3),
            in_categories,
            popular,
            FreshSource(catalogue, limit=n // 10),
            *([RepeatConsumptionSource()] if repeats.days else []),
            FilteredSource(limit=n),
            *([PinnedSource(rules, catalogue)] if rules else []),
        ]
        quotas = {name: int(share * n) for name, share in _QUOTAS.items()}
        merger = QuotaMerger(quotas, limit=n, weights={FilteredSource.name: 0.0})
        return Pipeline(
            query_hydrators=[config.read_user, EligibilityHydrator(loaded.eligibility), history],
            sources=sources,
            merger=merger,
            candidate_hydrators=[loaded.item_features],
            filters=[SeenFilter(), DeletedFilter(catalogue), eligible, *blocked],
            scorers=[
                RankScorer(self.ranker, catalogue.trained, loaded.calibrations, value, loaded.taste),
                *([ImpressionDiscount(_SHOWN, path.shown_discount)] if path.shown_discount != 1 else []),
                *([RuleBoost(rules, loaded.eligibility)] if rules else []),
            ],
            selector=Reranker(
                path.rerank,
                catalogue,
                loaded.vectors,
                rules,
                config.native,
                loaded.sameness,
                loaded.uncertainty.deviation if loaded.uncertainty else None,
            ),
            side_effects=self._side_effects,
            compiled=CompiledRecall(sources, merger, catalogue, eligible) if config.native else None,
        )


def repeats_of(bundle: Bundle) -> RepeatPolicy:
    """Raises `InvalidBundle`: the manifest names another type of event than an engagement, or no number of days."""
    days = {kind: number for kind, number in bundle.manifest.repeats.items() if kind in RANKS and number >= 0}
    if len(days) < len(bundle.manifest.repeats):
        raise InvalidBundle(
            f"{bundle.path.name}: repeats: {bundle.manifest.repeats}; train and publish it again"
        )
    return RepeatPolicy({EventType(kind): number for kind, number in days.items()})


def _check_width(ranker: Ranker, artifacts: Artifacts) -> None:
    """Raises `InvalidBundle`: the ranker takes another number of inputs than features and taste model give."""
    given = FEATURES.dimension + (OFFSETS if artifacts.taste else 0)
    taken = getattr(ranker, "n_features", None)  # None: of any number, or in another process
    if taken is not None and taken != given:
        taste = "with" if artifacts.taste else "without"
        raise InvalidBundle(
            f"{artifacts.bundle.path.name}: the ranker takes {taken} inputs for each candidate, the features {taste}"
            f" {TASTE} are {given}; train and publish it again"
        )
