"""The order of stages, and what happens to a request when one of them misbehaves."""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from msgspec.structs import replace

from recsys.contracts.errors import InvalidConfig, StageFailed
from recsys.contracts.request import Answer, Candidates, Query, Rows, Selection, StageOutcome, Status
from recsys.contracts.types import Head
from tests.recsys.pipeline.fakes import Fake, make, rows, scorer, source, top_k


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def query(k: int = 3, **fields: object) -> Query:
    return replace(Query("r1", "u1", k=k, now_ms=1_000), **fields)


def outcome(answer: Answer, stage: str) -> StageOutcome:
    return next(o for o in answer.outcomes if o.stage == stage)


def test_a_request_runs_every_stage_in_the_order_of_the_diagram(pool: ThreadPoolExecutor) -> None:
    seen_after: list[list[int]] = []
    pipeline = make(
        pool,
        query_hydrators=[Fake("user", lambda q: replace(q, known=True))],
        sources=[source("a", 0, 1, 2, 3), source("b", 3, 4)],
        candidate_hydrators=[
            Fake("features", lambda q, c: replace(c, features=np.ones((len(c), 2), np.float32)))
        ],
        filters=[Fake("seen", lambda q, c: {"seen": c.rows == 1})],
        scorers=[scorer("rank", {0: 0.1, 2: 0.4, 3: 0.2, 4: 0.3})],
        side_effects=[Fake("log", lambda a: seen_after.append(a.candidates.rows.tolist()))],
    )
    answer = pipeline.answer(query())
    assert [o.stage for o in answer.outcomes] == [stage.name for stage in pipeline.stages]
    assert answer.query.known
    assert answer.candidates.rows.tolist() == [2, 4, 3]
    assert answer.candidates.features.shape == (3, 2)
    assert answer.candidates.channels_of(2) == {"a": 3, "b": 0}
    assert answer.propensities.tolist() == [1, 1, 1]
    assert seen_after == [[2, 4, 3]]
    assert answer.degraded == ()
    counts = {o.stage: (o.count_in, o.count_out) for o in answer.outcomes}
    assert counts == {
        "user": (0, 0), "a": (0, 4), "b": (0, 2), "merge": (6, 5), "features": (5, 5),
        "seen": (5, 4), "rank": (4, 4), "top_k": (4, 3), "log": (3, 3),
    }  # fmt: skip
    assert outcome(answer, "seen").removed == {"seen": 1}
    assert answer.explanation is None


def test_explain_keeps_the_funnel(pool: ThreadPoolExecutor) -> None:
    pipeline = make(
        pool,
        filters=[Fake("rules", lambda q, c: {"blocked": c.rows == 1, "expired": c.rows <= 1})],
        scorers=[scorer("rank", {2: 0.4, 3: 0.5})],
    )
    explanation = pipeline.answer(query(k=1, explain=True)).explanation
    assert explanation is not None
    assert explanation.recalled["a"].tolist() == [0, 1, 2, 3]
    removed = {reason: found.tolist() for reason, found in explanation.removed["rules"].items()}
    assert removed == {"blocked": [1], "expired": [0, 1]}
    assert explanation.ranked.rows.tolist() == [3, 2]


OPTIONAL_KINDS = ["query_hydrators", "sources", "candidate_hydrators", "filters", "scorers", "side_effects"]


@pytest.mark.parametrize("kind", OPTIONAL_KINDS)
def test_a_failed_optional_stage_is_named_and_the_rest_continues(pool: ThreadPoolExecutor, kind: str) -> None:
    broken = Fake("broken", ConnectionError("no route"))
    pipeline = make(pool, **{kind: [*([source("a", 5, 6)] if kind == "sources" else []), broken]})
    answer = pipeline.answer(query())
    assert answer.degraded == ("broken",)
    assert len(answer.candidates) > 0
    assert outcome(answer, "broken").status is Status.FAILED
    assert outcome(answer, "broken").error == "ConnectionError: no route"


@pytest.mark.parametrize("kind", OPTIONAL_KINDS)
def test_a_failed_required_stage_ends_the_request(pool: ThreadPoolExecutor, kind: str) -> None:
    pipeline = make(pool, **{kind: [Fake("broken", ConnectionError("no route"), optional=False)]})
    with pytest.raises(StageFailed, match=r"'broken' failed: ConnectionError: no route") as caught:
        pipeline.answer(query())
    assert caught.value.stage == "broken"
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert isinstance(caught.value.outcomes[-1], StageOutcome)


def test_a_failed_selector_leaves_the_order_of_the_scores(pool: ThreadPoolExecutor) -> None:
    answer = make(pool, selector=Fake("mmr", ValueError("x"))).answer(query(k=2))
    assert answer.candidates.rows.tolist() == [0, 1]
    assert answer.degraded == ("mmr",)


def test_when_every_source_fails_the_list_is_empty_and_says_why(pool: ThreadPoolExecutor) -> None:
    answer = make(pool, sources=[Fake("a", ValueError("x")), Fake("b", ValueError("y"))]).answer(query())
    assert len(answer.candidates) == 0
    assert answer.degraded == ("a", "b")


def test_a_slow_optional_source_times_out(pool: ThreadPoolExecutor) -> None:
    release = threading.Event()
    slow = Fake("slow", lambda q: release.wait(60) and rows(9))
    ticking = iter(range(1_000_000))
    pipeline = make(pool, clock=lambda: next(ticking) / 100, sources=[source("a", 1), slow])
    answer = pipeline.answer(query(deadline_s=0.5))
    release.set()
    assert outcome(answer, "slow").status is Status.TIMED_OUT
    assert "slow" in answer.degraded
    assert answer.candidates.rows.tolist() == [1]


def test_a_slow_required_source_is_waited_for(pool: ThreadPoolExecutor) -> None:
    release = threading.Event()
    threading.Timer(0.2, release.set).start()
    slow = Fake("slow", lambda q: release.wait(60) and rows(9), optional=False)
    answer = make(pool, sources=[slow]).answer(query(deadline_s=1e-9))
    assert answer.candidates.rows.tolist() == [9]


def test_after_the_deadline_optional_stages_are_skipped_and_required_ones_run(
    pool: ThreadPoolExecutor,
) -> None:
    required, optional = (
        scorer("value", dict.fromkeys(range(4), 1.0), optional=False),
        Fake("extra", ValueError("x")),
    )
    log = Fake("log", lambda answer: None)
    pipeline = make(
        pool,
        clock=lambda: 10.0,
        sources=[source("a", 0, 1, optional=False)],
        scorers=[optional, required],
        side_effects=[log],
    )
    answer = pipeline.answer(query(deadline_s=9.0))
    assert log.calls == 1, "what is shown is logged, however late"
    assert optional.calls == 0
    assert required.calls == 1
    assert outcome(answer, "extra").status is Status.SKIPPED
    assert answer.degraded == ("extra", "top_k")
    assert len(answer.candidates) == 2


def test_without_a_deadline_nothing_is_cut(pool: ThreadPoolExecutor) -> None:
    assert make(pool, clock=lambda: 1e12).answer(query(deadline_s=math.inf)).degraded == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_scores_sink_and_are_counted(pool: ThreadPoolExecutor, bad: float) -> None:
    offered: list[int] = []

    def select(q: Query, c: Candidates) -> Selection:
        offered.extend(c.rows.tolist())
        return top_k(q, c)

    pipeline = make(
        pool, scorers=[scorer("rank", {0: bad, 1: -5.0, 2: 7.0, 3: bad})], selector=Fake("pick", select)
    )
    answer = pipeline.answer(query(k=3))
    assert answer.candidates.rows.tolist() == [2, 1, 0]
    assert answer.candidates.score.tolist() == [7.0, -5.0, -6.0]
    assert offered == [2, 1]
    assert outcome(answer, "rank").non_finite == 2


def test_a_non_finite_head_sinks_its_candidate_and_reads_as_zero(pool: ThreadPoolExecutor) -> None:
    heads = {Head.CLICK: np.array([np.nan, 0.5, 0.6, 0.7], np.float32)}
    answer = make(pool, scorers=[Fake("rank", lambda q, c: replace(c, scores=heads))]).answer(query(k=4))
    assert answer.candidates.rows.tolist() == [1, 2, 3, 0]
    assert answer.candidates.scores[Head.CLICK].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.0])


def test_a_candidate_without_a_finite_score_stays_last_after_later_scorers(
    pool: ThreadPoolExecutor,
) -> None:
    first, second = (
        scorer("rank", {0: math.nan, 1: 1, 2: 1, 3: 1}),
        scorer("boost", {0: 99, 1: 3, 2: 2, 3: 1}),
    )
    assert make(pool, scorers=[first, second]).answer(query(k=4)).candidates.rows.tolist() == [1, 2, 3, 0]


def test_when_all_scores_are_non_finite_the_order_of_recall_remains(pool: ThreadPoolExecutor) -> None:
    answer = make(pool, scorers=[scorer("rank", dict.fromkeys(range(4), math.nan))]).answer(query(k=4))
    assert answer.candidates.rows.tolist() == [0, 1, 2, 3]
    assert answer.candidates.score.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "act", [lambda q, c: c.take(np.arange(len(c))[::-1]), lambda q, c: c.take(np.arange(len(c) - 1))]
)
def test_a_hydrator_that_reorders_or_drops_fails(pool: ThreadPoolExecutor, act: object) -> None:
    answer = make(pool, candidate_hydrators=[Fake("bad", act)]).answer(query(k=4))
    assert "must keep length and order" in outcome(answer, "bad").error
    assert answer.candidates.rows.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("positions", "message"),
    [([0, 0], "twice"), ([0, 99], "outside"), ([-1], "outside"), ([0, 1, 2, 3], "k 3")],
)
def test_an_invalid_selection_fails(pool: ThreadPoolExecutor, positions: list[int], message: str) -> None:
    bad = Selection(np.array(positions), np.ones(len(positions), np.float32))
    answer = make(pool, selector=Fake("bad", lambda q, c: bad)).answer(query())
    assert message in outcome(answer, "bad").error
    assert answer.candidates.rows.tolist() == [0, 1, 2]


def test_two_stages_of_one_name_are_refused(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(InvalidConfig, match="repeated: a"):
        make(pool, sources=[source("a", 1), source("a", 2)])


def test_candidates_refuse_arrays_of_another_length() -> None:
    with pytest.raises(ValueError, match="score has 1"):
        Candidates(rows(1, 2), (), np.empty((2, 0), np.int16), np.ones(1, np.float32))


def test_without_a_pool_stages_run_in_turn_and_late_optional_ones_are_skipped() -> None:
    now = [0.0]

    def slow(_: Query) -> Rows:
        now[0] += 1.0
        return rows(5)

    pipeline = make(
        None,
        sources=[
            source("first", 1),
            Fake("slow", slow),
            source("optional", 2),
            source("required", 3, optional=False),
        ],
        clock=lambda: now[0],
    )
    answer = pipeline.answer(query(k=9, deadline_s=1.0))  # recall has 0.6 of it
    statuses = {o.stage: o.status for o in answer.outcomes}
    assert statuses["first"] is statuses["slow"] is statuses["required"] is Status.OK
    assert statuses["optional"] is Status.SKIPPED
    assert sorted(answer.candidates.rows.tolist()) == [1, 3, 5]


def test_a_list_that_is_not_shown_has_no_side_effects(pool: ThreadPoolExecutor) -> None:
    log = Fake("log", lambda answer: None)
    pipeline = make(pool, side_effects=[log])
    shown, unseen = pipeline.answer(query()), pipeline.answer(query(), shown=False)
    assert log.calls == 1
    assert shown.candidates.rows.tolist() == unseen.candidates.rows.tolist()
