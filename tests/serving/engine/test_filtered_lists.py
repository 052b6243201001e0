"""A selective filter of a large catalogue: the list is as long, and as good, as if every eligible item were ranked."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from recsys.contracts.filters import parse_filter
from recsys.contracts.request import Answer, Explanation, Query
from recsys.contracts.state import EntityState, Visit
from recsys.contracts.types import EventType, Item
from recsys.features.definitions import ENGAGED_VISITS
from recsys.native import core
from recsys.pipeline.hydrators import UserHydrator
from recsys.pipeline.pipeline import Pipeline
from recsys.recall.ann import IndexConfig
from recsys.recall.index_kind import Kind
from serving.engine.artifacts import Artifacts, LoadOptions, load_artifacts
from serving.engine.pipeline_builder import PipelineBuilder, PipelineConfig
from tests.bundles import write_tiny_bundle

pytestmark = pytest.mark.slow
N, LOTS, K = 100_000, 1_000, 50
NOW_MS = 1_750_000_000_000


class Users:
    """One has clicked, the others are new."""

    def user(self, user_id: str) -> EntityState:
        clicks = [Visit(NOW_MS - n, str(n), EventType.CLICK, f"{n:06d}", ()) for n in (9_999, 7, 3)]
        return EntityState(histories={ENGAGED_VISITS.name: clicks}) if user_id == "known" else EntityState()


@pytest.fixture(scope="module")
def artifacts() -> Iterator[Artifacts]:
    """A thousandth of the items are of one lot."""
    items = [Item(f"{n:06d}", categories=(f"c{n % 7}",), attributes={"lot": str(n % LOTS)}) for n in range(N)]
    with TemporaryDirectory() as folder:
        index = IndexConfig(Kind.IVF_SQ8, lists=256)
        yield load_artifacts(write_tiny_bundle(Path(folder), items=items, index=index), LoadOptions())


@pytest.fixture(scope="module")
def pipelines(artifacts: Artifacts) -> list[Pipeline]:
    """Without compiled code, and with it."""
    natives = (False, True) if core else (False,)
    configs = [PipelineConfig(UserHydrator(Users()), native=native) for native in natives]
    return [PipelineBuilder(artifacts, config).build(config.path) for config in configs]


def query(asked: str, user_id: str, explain: bool = False) -> Query:
    return Query("r", user_id, K, NOW_MS, filter=parse_filter(asked), explain=explain)


def explained(pipeline: Pipeline, asked: str, user_id: str) -> Explanation:
    explanation = pipeline.answer(query(asked, user_id, explain=True)).explanation
    assert explanation is not None
    return explanation


def rows_of(lots: int) -> set[int]:
    return {row for row in range(N) if row % LOTS < lots}


@pytest.mark.parametrize("user_id", ["known", "new"])
@pytest.mark.parametrize("lots", [1, 5, 100])
def test_a_selective_filter_still_fills_the_list(pipelines: list[Pipeline], user_id: str, lots: int) -> None:
    lists: list[Answer] = [pipeline.answer(query(f"lot < {lots}", user_id)) for pipeline in pipelines]
    for pipeline, answer in zip(pipelines, lists, strict=True):
        assert len(answer.candidates) == K
        assert set(answer.candidates.rows.tolist()) <= rows_of(lots)
        assert answer.degraded == ()
        assert answer.compiled == (pipeline is not pipelines[0])
    assert len({tuple(answer.candidates.rows.tolist()) for answer in lists}) == 1


@pytest.mark.parametrize("user_id", ["known", "new"])
def test_where_few_are_eligible_all_of_them_are_ranked(pipelines: list[Pipeline], user_id: str) -> None:
    ranked = explained(pipelines[0], "lot == 3", user_id).ranked.rows.tolist()
    assert set(ranked) == rows_of(4) - rows_of(3)
    exactly = " or ".join(f"lot == 3 and item_id == '{row:06d}'" for row in range(3, 25_003, LOTS))
    assert len(pipelines[0].answer(query(exactly, user_id)).candidates) == 25, "fewer than k are all shown"


@pytest.mark.parametrize(("lots", "least"), [(1, 1.0), (10, 1.0), (300, 0.99), (900, 0.99)])
def test_the_nearest_eligible_items_are_recalled_as_by_an_exact_scan(
    artifacts: Artifacts, pipelines: list[Pipeline], lots: int, least: float
) -> None:
    found = explained(pipelines[0], f"lot < {lots}", "known").recalled["two_tower"]
    vectors = artifacts.index.vectors(np.arange(N, dtype=np.int32))
    user = vectors[[9_999, 7, 3]].sum(axis=0)
    scores = np.where(np.arange(N) % LOTS < lots, vectors @ user, -np.inf)
    best = np.argsort(-scores)[: len(found)]
    assert len(found) == min(375, len(rows_of(lots)))
    assert len(np.intersect1d(found, best)) / len(found) >= least


def test_a_filter_that_leaves_everything_displaces_no_candidate(pipelines: list[Pipeline]) -> None:
    every = explained(pipelines[0], "item_id is not null", "known")
    unfiltered = pipelines[0].answer(Query("r", "known", K, NOW_MS, explain=True)).explanation
    assert unfiltered is not None
    assert every.ranked.rows.tolist() == unfiltered.ranked.rows.tolist()
