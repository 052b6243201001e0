"""The compiled recall answers as the stages that it stands in for, whatever the catalogue and the user."""

import random
from dataclasses import replace as changed

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from recsys.contracts.filters import parse_filter
from recsys.contracts.request import Answer, Query, Rows
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE, Item
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility
from recsys.pipeline.compiled_recall import CompiledRecall
from recsys.pipeline.filters import DeletedFilter, EligibleFilter, SeenFilter
from recsys.pipeline.hydrators import EligibilityHydrator
from recsys.pipeline.pipeline import Pipeline
from recsys.pipeline.stages import Source
from recsys.recall.filtered import FilteredSource
from recsys.recall.fresh import FreshSource
from recsys.recall.item_to_item import ItemToItemSource
from recsys.recall.merge import QuotaMerger
from recsys.recall.popular import PopularInCategoriesSource, PopularSource, popularity
from recsys.recall.vector_index import NO_ROW
from tests.recsys.native.built import needs_native
from tests.recsys.pipeline.fakes import Fake, source, top_k

NOW_MS = 20_000 * MS_PER_DAY + 12 * MS_PER_MINUTE

FILTERS = ["", "", 'creator == "a"', 'not creator in ["a", "b"] or categories == "c0"', 'creator == "nobody"']

pytestmark = needs_native


def world(rng: random.Random) -> tuple[Pipeline, Catalogue]:
    """A small catalogue with deleted, later, announced and bare items, behind the tables of every channel."""
    n = rng.choice([1, 3, 30, 120])
    categories = [f"c{i}" for i in range(rng.choice([1, 4]))]

    def item(i: int) -> Item:
        age_ms = rng.choice([-MS_PER_DAY, -1, 0, 1, 1, MS_PER_DAY, 40 * MS_PER_DAY])
        created_ms = rng.choice([0, NOW_MS - age_ms])
        chosen = tuple(rng.sample(categories, rng.randint(0, 1)))
        return Item(
            f"i{i}",
            categories=chosen,
            creator=rng.choice(["", "a", "b"]),
            created_ms=created_ms,
            available_until_ms=rng.choice([0, 0, NOW_MS, NOW_MS + 1]),
            regions=rng.choice([(), (), ("de", "at"), ("fr",)]),
        )

    catalogue = Catalogue([item(i) for i in range(n)])
    scores = np.array([rng.choice([0, 1, 1, 2, 5]) for _ in range(n)], np.float32)
    table = popularity(np.arange(n, dtype=np.int32), scores, catalogue)
    near = np.array([[rng.choice([NO_ROW, *range(n)]) for _ in range(5)] for _ in range(n)], np.int32)
    weights = np.array([[rng.choice([0, 0.25, 0.1, 1.0]) for _ in range(5)] for _ in range(n)], np.float32)
    catalogue.put([item(n + i) for i in range(rng.choice([0, 5]))])
    catalogue.delete(rng.sample([f"i{i}" for i in range(n)], rng.randint(0, n // 3)))
    limit = rng.choice([1, 7, 40])
    model = source("two_tower", *rng.sample(range(n), rng.randint(0, n)))
    sources: list[Source] = [
        model,
        ItemToItemSource(near, weights, limit=rng.choice([1, 13])),
        PopularInCategoriesSource(table, catalogue, limit=rng.choice([1, 10])),
        PopularSource(table, limit=rng.choice([1, 40]), optional=False),
        FreshSource(catalogue, limit=rng.choice([1, 2, 9])),
        FilteredSource(limit=rng.choice([1, 40])),
        source("pinned", *rng.sample(range(n), rng.randint(0, min(n, 2)))),
    ]
    eligible = EligibleFilter(Eligibility(catalogue))
    quotas = {s.name: rng.choice([0, 1, 5]) for s in rng.sample(sources, 4)}
    merger = QuotaMerger(quotas, limit, {model.name: rng.choice([1.0, 0.3]), "filtered": 0.0})
    pipeline = Pipeline(
        query_hydrators=[EligibilityHydrator(eligible.eligibility)],
        sources=sources,
        merger=merger,
        candidate_hydrators=[],
        filters=[SeenFilter(), DeletedFilter(catalogue), eligible, odd_rows_are_blocked()],
        scorers=[],
        selector=Fake("top_k", top_k),
        compiled=CompiledRecall(sources, merger, catalogue, eligible),
    )
    return pipeline, catalogue


def odd_rows_are_blocked() -> Fake:
    return Fake("rules", lambda query, candidates: {"odd": candidates.rows % 2 == 1})


def user(rng: random.Random, catalogue: Catalogue) -> Query:
    def some(most: int) -> Rows:
        n = len(catalogue)
        return np.array(rng.sample(range(n), rng.randint(0, min(n, most))), np.int32)

    return replace(
        Query("r", "u", k=rng.choice([1, 10]), now_ms=NOW_MS),
        recent_rows=some(25),
        seen_rows=np.sort(some(len(catalogue))),
        excluded_rows=np.sort(some(3)),
        filter=parse_filter(asked) if (asked := rng.choice(FILTERS)) else None,
        region=rng.choice(["", "de"]),
    )


def shown(answer: Answer) -> object:
    candidates = answer.candidates
    return candidates.rows.tolist(), candidates.ranks.tolist(), candidates.score.tolist(), candidates.channels


def did(answer: Answer) -> dict[str, object]:
    return {o.stage: (o.kind, o.status, o.count_in, o.count_out, o.removed) for o in answer.outcomes}


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_same_candidates_channels_scores_and_reasons(rng: random.Random) -> None:
    pipeline, catalogue = world(rng)
    reference = changed(pipeline, compiled=None)
    for _ in range(3):  # what one request leaves behind must not reach the next
        query = user(rng, catalogue)
        compiled, stages = pipeline.answer(query), reference.answer(query)
        assert compiled.compiled and not stages.compiled
        assert shown(compiled) == shown(stages)
        assert did(compiled) == did(stages)
        assert [o.stage for o in compiled.outcomes] == [stage.name for stage in pipeline.stages]


def test_what_is_late_or_explained_is_answered_by_the_stages() -> None:
    pipeline, catalogue = world(random.Random(3))
    query = user(random.Random(3), catalogue)
    assert not pipeline.answer(replace(query, explain=True)).compiled
    late = pipeline.answer(replace(query, deadline_s=0.0))
    assert not late.compiled
    assert "item_to_item" in late.degraded
    assert "popular" not in late.degraded


def test_what_was_found_before_it_was_late_counts() -> None:
    """The model's source takes all the time that recall has: the tables are not read, and its rows are ranked."""
    clock_s = 0.0

    def slow(query: Query) -> Rows:
        nonlocal clock_s
        clock_s = 10.0
        return np.array([0], np.int32)

    def answered(path: Pipeline) -> Answer:
        nonlocal clock_s
        clock_s = 0.0
        return changed(path, sources=sources, clock=lambda: clock_s).answer(query)

    pipeline, catalogue = world(random.Random(4))
    sources = [Fake("two_tower", slow), *pipeline.sources[1:]]
    query = replace(user(random.Random(5), catalogue), deadline_s=9.0, seen_rows=np.empty(0, np.int32))
    compiled = CompiledRecall(sources, pipeline.merger, catalogue, pipeline.filters[2])  # type: ignore[arg-type]
    late = answered(changed(pipeline, compiled=compiled))
    stages = answered(changed(pipeline, compiled=None))
    assert not late.compiled
    assert shown(late) == shown(stages)
    assert did(late) == did(stages)
    assert "two_tower" not in late.degraded
    assert "item_to_item" in late.degraded


def test_a_source_that_fails_is_named_and_the_others_answer() -> None:
    def fails(query: Query) -> Rows:
        raise RuntimeError("no model")

    pipeline, catalogue = world(random.Random(4))
    broken = Fake("two_tower", fails)
    sources = [broken, *pipeline.sources[1:]]
    compiled = CompiledRecall(sources, pipeline.merger, catalogue, pipeline.filters[2])  # type: ignore[arg-type]
    query = user(random.Random(5), catalogue)
    answer = changed(pipeline, sources=sources, compiled=compiled).answer(query)
    assert answer.compiled
    assert answer.degraded == ("two_tower",)
    assert shown(answer) == shown(changed(pipeline, sources=sources, compiled=None).answer(query))


def test_a_row_that_the_catalogue_does_not_have_yet_is_left_to_the_stages() -> None:
    """Tables and catalogue change one after the other; the compiled code must not read beyond its arrays."""
    pipeline, catalogue = world(random.Random(6))
    query = replace(user(random.Random(6), catalogue), seen_rows=np.array([10_000], np.int32))
    assert not pipeline.answer(query).compiled
    assert pipeline.answer(replace(query, seen_rows=query.seen_rows[:0])).compiled
