"""What a running system says of a candidate: the shadow's report, the API's counts, the lake."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from infra.release import live
from infra.release.live import LiveEvidence
from recsys.contracts.types import EventType
from recsys.experiments.release import CANARY, CONTROL, Release, Stage, experiment_of, proposed
from recsys.settings import Settings
from serving.telemetry import Telemetry
from tests.recsys.experiments.lakes import LakeBuilder, day

RELEASE = proposed("new", "old", 0)
REPORT = {
    **{"shadow": "new", "active": "old", "requests": 600, "failed": 0, "ms_mean": 5.0, "shadow_ms_mean": 6.0},
    **{"distinct_items": 100, "shadow_distinct_items": 90},
}
Answers = dict[str, Callable[[], str]]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between two looks, and no network."""
    monkeypatch.setattr(live, "_SHARE", 0.0)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("10.0.0.1", 80))])


def evidence(tmp_path: Path, answers: Answers) -> LiveEvidence:
    def answer(request: httpx.Request) -> httpx.Response:
        found = answers.get(request.url.path)
        return httpx.Response(404) if found is None else httpx.Response(200, text=found())

    return LiveEvidence(
        Settings(home=tmp_path), ["http://api"], transport=httpx.MockTransport(answer), every_s=0.0
    )


def shadowing(tmp_path: Path, refused: str = "", **changes: object) -> LiveEvidence:
    bundles = {"bundles": [{"version": "new", "refused": refused}]}
    return evidence(
        tmp_path,
        {
            "/v1/bundles": lambda: json.dumps(bundles),
            "/v1/bundles/shadow": lambda: json.dumps(REPORT | changes),
        },
    )


def test_the_shadows_report_becomes_evidence(tmp_path: Path) -> None:
    found = shadowing(tmp_path).mirrored(RELEASE)
    assert found is not None
    assert (found.requests, found.problems) == (600, ())
    slow = shadowing(tmp_path, shadow_ms_mean=11.0, failed=100).mirrored(RELEASE)
    assert slow is not None
    assert (slow.requests, len(slow.problems)) == (700, 2)


def test_a_report_of_other_bundles_or_none_says_nothing(tmp_path: Path) -> None:
    assert shadowing(tmp_path, active="another").mirrored(RELEASE) is None
    assert evidence(tmp_path, {}).mirrored(RELEASE) is None


def test_a_bundle_that_the_api_refuses_is_a_problem(tmp_path: Path) -> None:
    found = shadowing(tmp_path, refused="golden output differs").mirrored(RELEASE)
    assert found is not None
    assert "golden output differs" in found.problems[0]


@pytest.fixture
def canary() -> Release:
    return replace(RELEASE, stage=Stage.CANARY_10)


def test_requests_count_from_the_first_look_of_a_stage(tmp_path: Path, canary: Release) -> None:
    telemetry = Telemetry()

    def serve(arm: str, n: int, seconds: float, degraded: bool = False) -> None:
        for _ in range(n):
            telemetry.release(arm, seconds, degraded)

    serve(CANARY, 500, 1.0, degraded=True)  # of an earlier release
    api = evidence(tmp_path, {"/metrics": lambda: telemetry.exposition().decode()})
    first = api.look(canary)
    assert first is not None
    assert first.p == {}
    serve(CONTROL, 2_000, 0.004)
    serve(CANARY, 200, 0.004)
    second = api.look(canary)
    assert second is not None
    assert second.p == {"slow": 1.0, "degraded": 1.0}
    serve(CANARY, 200, 0.1, degraded=True)
    third = api.look(canary)
    assert third is not None
    assert max(third.p.values()) < 1e-6
    telemetry = Telemetry()  # the API was restarted
    serve(CONTROL, 10, 0.004)
    fourth = api.look(canary)
    assert fourth is not None
    assert max(fourth.p.values()) < 1e-6, "what was counted before stays"


def test_a_look_that_is_still_young_is_evidence(tmp_path: Path, canary: Release) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=""))
    api = LiveEvidence(Settings(home=tmp_path), ["http://api"], transport=transport, every_s=3_600.0)
    first = api.look(canary)
    assert first is not None
    assert api.look(canary) is first
    other = api.look(replace(canary, stage=Stage.CANARY_50))
    assert other is not None
    assert other.stage is Stage.CANARY_50


def test_an_api_that_is_away_is_left_out_while_another_answers(tmp_path: Path, canary: Release) -> None:
    telemetry = Telemetry()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host in away:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, text=telemetry.exposition().decode())

    away = {"b"}
    api = LiveEvidence(
        Settings(home=tmp_path), ["http://a", "http://b"], transport=httpx.MockTransport(answer), every_s=0.0
    )
    assert api.look(canary) is not None
    for arm in (CONTROL, CANARY):
        telemetry.release(arm, 0.004, False)
    found = api.look(canary)
    assert found is not None
    assert found.p == {"slow": 1.0, "degraded": 1.0}
    away.add("a")
    assert api.look(canary) is None


def test_a_name_of_several_pods_is_asked_at_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = [(2, 1, 6, "", (host, 8000)) for host in ("10.0.0.2", "10.0.0.1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [*pods, pods[0]])
    assert live.addresses("http://api-pods:8000") == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pods[:1])
    assert live.addresses("https://api:8000") == ["https://api:8000"]


def test_users_and_their_clicks_come_from_the_lake(tmp_path: Path, canary: Release) -> None:
    experiment = experiment_of(canary)
    assert experiment is not None
    lake = LakeBuilder()
    for n in range(120):
        arm = (CANARY, CONTROL)[n % 2]
        at = day(0, 9 + n / 60)
        request = lake.show(f"u{n}", at, ["a/p", "b/q"], f"{experiment.name}:{arm}@0.5")
        if arm == CONTROL and n % 3:
            lake.act(EventType.CLICK, f"u{n}", at + 1_000, "a/p", request)
    lake.write(tmp_path / "lake")
    found = evidence(tmp_path, {"/metrics": lambda: ""}).look(canary)
    assert found is not None
    assert found.users == 60
    assert found.p["ctr"] < 1e-3
    assert found.p["list_length"] == 1.0
