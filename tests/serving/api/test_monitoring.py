"""The System view's numbers: rates of a window, percentiles, stream positions, drift; the Data view's files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from recsys.contracts.errors import Unavailable
from recsys.contracts.types import Topic
from recsys.observability.worker_report import WorkerReport
from recsys.result import Goal, Result
from serving.api.monitoring import system
from serving.api.monitoring.log_ends import LogEnds
from serving.api.monitoring.rates import STAGES, Window, added, made_readable, quantile
from streaming.worker.metrics import WorkerMetrics
from tests.serving.conftest import NOW_MS, Api, click


def test_percentiles_of_buckets() -> None:
    then = {0.01: 5.0, 0.02: 5.0, float("inf"): 5.0}
    now = {0.01: 5.0, 0.02: 15.0, float("inf"): 15.0}  # ten more, all between 10 and 20 ms
    assert quantile(then, now, 0.5) == pytest.approx(0.015)
    assert quantile(then, now, 0.99) == pytest.approx(0.0199)
    assert quantile(now, now, 0.5) is None
    assert quantile({}, {0.01: 0.0, float("inf"): 4.0}, 0.5) == 0.01  # all that the buckets tell
    assert added(then, now) == 10


def test_the_window_forgets_what_was_before_it() -> None:
    registry, at = CollectorRegistry(), [0.0]
    requests = Counter("recsys_http_requests", "", ("route", "method", "status"), registry=registry)
    stage = Histogram(STAGES, "", ("stage",), registry=registry)
    window = Window(lambda: at[0])

    def in_window() -> float:
        then, now = window.compare(registry.collect())
        return now.requests["/", "200"] - then.requests.get(("/", "200"), 0.0)

    requests.labels("/", "GET", "200").inc(7)
    stage.labels("rank").observe(0.01)
    at[0] = 10.0
    assert in_window() == 7  # since the start
    requests.labels("/", "GET", "200").inc(2)
    at[0] = 65.0
    assert in_window() == 2  # the start is out of the window, the look at 10 s is in it


def test_what_was_counted_before_the_start_is_not_of_the_first_minute() -> None:
    registry, at = CollectorRegistry(), [0.0]
    requests = Counter("recsys_http_requests", "", ("route", "method", "status"), registry=registry)
    requests.labels("/", "GET", "200").inc(1_000_000)  # of processes that ran before, or beside
    window = Window(lambda: at[0])
    window.begin(registry.collect())
    at[0] = 2.0
    requests.labels("/", "GET", "200").inc(3)
    then, now = window.compare(registry.collect())
    assert (now.requests["/", "200"] - then.requests["/", "200"], now.at_s - then.at_s) == (3, 2.0)


def report(*counts: float, alive_s: float = 1.0) -> WorkerReport:
    freshness = dict(zip((0.01, 0.1, float("inf")), counts, strict=True))
    return WorkerReport(NOW_MS, alive_s, 0, 0, 0, 0, 0, 4, freshness)


def test_freshness_is_that_of_the_window_over_all_workers_that_live() -> None:
    at = [0.0]
    window = Window(lambda: at[0])
    then, now = window.compare([], None)  # the store is away
    assert made_readable(then, now) is None
    at[0] = 2.0
    then, now = window.compare([], {"a": report(90, 100, 100), "gone": report(5, 5, 5)})
    assert made_readable(then, now) is None, "what was before the first report is not of this minute"
    at[0] = 4.0
    then, now = window.compare([], {"a": report(92, 104, 104), "new": report(1, 1, 2)})
    assert made_readable(then, now) == {0.01: 3, 0.1: 5, float("inf"): 6}


def test_what_a_worker_counted_before_its_reports_came_back_is_not_of_the_last_minute() -> None:
    at = [0.0]
    window = Window(lambda: at[0])

    def looked(at_s: float, *counts: float) -> object:
        at[0] = at_s
        return made_readable(
            *window.compare([], {"a": report(*counts, alive_s=1_000 + at_s)} if counts else {})
        )

    looked(1, 900, 1_000, 1_000)
    assert looked(30) == {}, "it does not report"
    assert looked(40, 950, 1_060, 1_060) == {0.01: 50, 0.1: 60, float("inf"): 60}, "since the look at 1 s"
    assert looked(80) == {}
    assert looked(120, 2_000, 2_000, 2_000) == {}, "its last report was before the window"
    assert looked(122, 2_001, 2_003, 2_003) == {0.01: 1, 0.1: 3, float("inf"): 3}


def test_a_worker_says_how_it_does(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "wall_ms", lambda: NOW_MS)
    # the time of a simulated world, which the worker does not know
    api.services.request_path.now_ms = lambda: NOW_MS + 86_400_000
    at = [0.0]
    api.services.system.window = Window(lambda: at[0])
    assert api.client.get("/v1/system").json()["workers"] == []
    metrics = WorkerMetrics()
    sent = metrics.report(NOW_MS - 500, 7, 4)
    api.store.report("w1", sent.encode(), 60_000)
    api.store.report("w0", b"of another version", 60_000)
    at[0] = 2.0
    api.client.get("/v1/system")
    metrics.events.labels("applied").inc(100)
    metrics.freshness.observe(0.03)
    api.store.report("w1", metrics.report(NOW_MS - 500, 7, 4).encode(), 60_000)
    state = api.client.get("/v1/system").json()
    assert state["workers"] == [
        {
            "name": "w1",
            "reported_s": 0.5,
            "partitions": 4,
            "lag": 7,
            "applied": 100,
            "duplicates": 0,
            "dead_letters": 0,
            "outages": 0,
            "problems": [],
        }
    ]
    assert 20 < state["freshness"]["p50_ms"] < 50
    assert [b["up_to_ms"] for b in state["freshness"]["buckets"] if b["batches"]] == [50]
    api.store.up = False
    state = api.client.get("/v1/system").json()
    assert (state["workers"], state["freshness"]["buckets"]) == ([], [])


def test_the_window_keeps_one_snapshot_a_second_however_often_somebody_looks() -> None:
    at = [0.0]
    window = Window(lambda: at[0])
    for tenth in range(1_000):
        at[0] = tenth / 10
        then, now = window.compare([])
    assert (now.at_s, round(now.at_s - then.at_s)) == (99.9, 60)
    assert len(window._taken) <= 62


def test_system_says_how_the_api_does(api: Api) -> None:
    api.apply([click("item-003")])
    for _ in range(3):
        api.recommend(k=5)
    api.store.up = False
    api.recommend("u2", k=5)
    api.store.up = True
    state = api.client.get("/v1/system").json()
    assert state["bundle"] == "v1"
    assert state["requests_per_s"] > 0
    assert state["degraded"] == {"user_features": 1}
    stages = {stage["name"]: stage for stage in state["stages"]}
    assert 0 < stages["rank"]["p50_ms"] <= stages["rank"]["p99_ms"]
    assert next(iter(stages)) == "user_features"
    assert {cache["name"] for cache in state["caches"]} == {"results", "user_vectors"}
    assert state["drift"]["missing"].startswith("fewer than 200")


def test_stream_positions_and_lag(api: Api) -> None:
    api.apply([click("item-003"), click("item-004")])
    partitions = api.services.settings.partitions

    def position() -> dict[str, object]:
        stream = api.client.get("/v1/system").json()["stream"]
        assert len(stream) == 2 * partitions
        found: dict[str, object] = next(
            s for s in stream if (s["topic"], s["partition"]) == (Topic.EVENTS, 0)
        )
        return found

    assert position()["offset"] == 2
    assert position()["lag"] is None
    api.services.system.log_ends = lambda topic: [5] * partitions
    assert position()["lag"] == 3

    def away(topic: str) -> list[int]:
        raise Unavailable("away")

    api.services.system.log_ends = away
    assert position()["lag"] is None
    api.store.up = False
    assert api.client.get("/v1/system").json()["stream"] == []


def test_a_log_that_does_not_answer_is_left_alone_for_a_while() -> None:
    at, tries = [0.0], [0]

    def connect() -> None:
        tries[0] += 1
        raise Unavailable("no broker")

    ends = LogEnds(connect, lambda: at[0])  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(Unavailable):
            ends("events")
    assert tries[0] == 1
    at[0] = 60.0
    with pytest.raises(Unavailable):
        ends("events")
    assert tries[0] == 2


def test_drift_compares_what_is_served_with_the_training(api: Api) -> None:
    for i in range(25):
        api.recommend(f"u{i}", k=10)
    state = api.client.get("/v1/system").json()["drift"]
    assert state["rows"] == 250
    assert state["missing"] == ""
    psi = state["psi"]
    assert list(psi.values()) == sorted(psi.values(), reverse=True)
    # the tiny bundle was "trained" on zeros: a constant 0 is stable, the hour of the day is not
    assert psi["user_clicks_30d_settled"] == pytest.approx(0, abs=1e-3)
    assert psi["item_age_days"] > 1


def test_models_shows_what_the_commands_have_left(
    api: Api, make_api: Callable[..., Api], tmp_path: Path
) -> None:
    assert api.client.get("/v1/models").json() == {"data": None, "trainings": [], "results": []}
    home = api.services.settings.home
    for folder in ("lake", "results", "work/ranker"):
        (home / folder).mkdir(parents=True)
    (home / "lake" / "import-report.json").write_text('{"dataset": "ml", "events": 3}')
    curve = [{"epoch": 1, "validation": {"score": 0.7}}]
    (home / "work" / "ranker" / "summary.json").write_text(
        json.dumps({"metrics": {"click_auc": 0.71}, "curve": curve, "config": {}, "seed": 0})
    )
    result = Result("evaluate recall", 0, {"two_tower_hr@10": 0.2}, {"two_tower_hr@10": Goal(">=", 0.1)})
    (home / "results" / "recall.json").write_text(json.dumps(result.to_dict()))
    (home / "work" / "other").mkdir()
    (home / "work" / "other" / "summary.json").write_text('{"metrics": {"click_auc": "good"}}')
    (home / "results" / "z.json").write_text(
        '{"command": "bench", "met": false, "figures": {"p50_ms": NaN}, "goals": {"p50_ms": Infinity}}'
    )
    (home / "results" / "broken.json").write_text("{")
    (home / "results" / "other.json").write_text('{"not": "a result"}')
    state = api.client.get("/v1/models").json()
    assert state["data"]["events"] == 3
    assert [training["model"] for training in state["trainings"]] == ["ranker"]
    assert state["trainings"][0]["curve"][0]["validation"] == {"score": 0.7}
    assert [r["file"] for r in state["results"]] == ["recall.json", "z.json"]
    assert state["results"][1]["figures"] == {"p50_ms": None}
    assert state["results"][0]["met"] is True


def test_served_lists_belong_to_their_bundle(api: Api) -> None:
    api.recommend(k=3)
    assert len(api.services.recommender.served.matrix("v1")) == 3
    assert api.services.recommender.served.matrix("v2").shape == (0, 0)
    assert np.isfinite(api.services.recommender.served.matrix("v1")).all()
