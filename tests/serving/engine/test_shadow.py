"""The shadow: answers a sample again with another bundle, changes nothing, and says how the lists would differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recsys.contracts.errors import StageFailed
from recsys.contracts.types import Topic
from serving.api.security import new_key
from serving.engine.shadow import set_shadow
from serving.settings import Scope
from tests.bundles import tiny_items, write_tiny_bundle
from tests.serving.conftest import Api, click
from tests.serving.waiting import eventually


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    api = make_api(shadow_share=1.0, result_cache_ms=0)  # a cached list is not offered to the shadow
    write_tiny_bundle(api.services.settings.bundles, "v2", seed=5, current=False)
    write_tiny_bundle(api.services.settings.bundles, "same", seed=0, current=False)
    return api


def report(api: Api) -> dict[str, Any]:
    response = api.client.get("/v1/bundles/shadow")
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_an_equal_bundle_makes_no_difference(api: Api) -> None:
    assert api.client.post("/v1/bundles/same/shadow").json() == {"shadow": "same"}
    api.apply([click("item-003")])
    for user in ("u1", "u2", "u3"):
        api.recommend(user, k=10)
    eventually(lambda: report(api)["requests"] == 3)
    found = report(api)
    assert (found["active"], found["shadow"]) == ("v1", "same")
    assert (found["identical_share"], found["same_first_share"], found["overlap_mean"]) == (1, 1, 1)
    assert found["score_difference_mean"] == 0
    assert (found["gains"], found["losses"], found["failed"], found["left_out"]) == ([], [], 0, 0)
    assert found["ms_mean"] > 0
    assert found["shadow_ms_mean"] > 0


def test_the_difference_is_that_of_the_two_lists(api: Api) -> None:
    shown = api.list_of("u1", k=10)
    api.services.host.publish("v2")
    other = api.list_of("u1", k=10)
    api.services.host.publish("v1")
    assert shown != other
    api.client.post("/v1/bundles/v2/shadow")
    api.list_of("u1", k=10)
    eventually(lambda: report(api)["requests"] == 1)
    found = report(api)
    assert found["overlap_mean"] == pytest.approx(len(set(shown) & set(other)) / 10)
    assert found["same_first_share"] == (shown[0] == other[0])
    assert found["identical_share"] == 0
    assert {c["item_id"] for c in found["gains"]} == set(other) - set(shown)
    assert {c["item_id"] for c in found["losses"]} == set(shown) - set(other)


def test_nobody_sees_the_shadow(api: Api) -> None:
    before = api.list_of("u1", k=10)
    api.client.post("/v1/bundles/v2/shadow")
    answer = api.recommend("u1", k=10).json()
    assert [item["item_id"] for item in answer["items"]] == before
    assert answer["bundle"] == "v1"
    eventually(lambda: report(api)["requests"] == 1)
    logged = api.logged(Topic.IMPRESSIONS, 2)
    assert [i["bundle"] for i in logged] == ["v1", "v1"]


def test_without_a_shadow_nothing_is_reported(api: Api) -> None:
    assert api.client.get("/v1/bundles/shadow").status_code == 404
    api.client.post("/v1/bundles/v2/shadow")
    assert report(api)["requests"] == 0
    assert api.client.delete("/v1/bundles/shadow").status_code == 204
    assert api.client.delete("/v1/bundles/shadow").status_code == 204
    assert api.client.get("/v1/bundles/shadow").status_code == 404
    assert api.services.host.runtime("v2") is not None  # in the pool, wanted by nobody
    assert api.client.post("/v1/bundles/v2/unload").json() == {"loaded": ["v1"]}


def test_a_published_shadow_ends(api: Api) -> None:
    api.client.post("/v1/bundles/v2/shadow")
    api.services.host.publish("v2")
    api.services.host.poll()
    assert api.client.get("/v1/bundles/shadow").status_code == 404
    assert api.recommend().json()["bundle"] == "v2"


def test_other_processes_follow_the_file(api: Api) -> None:
    set_shadow(api.services.settings.bundles, "v2")
    eventually(lambda: api.services.host.runtime("v2") is not None)
    api.recommend()
    eventually(lambda: report(api)["requests"] == 1)


def test_a_shadow_that_fails_is_counted_and_harms_nobody(api: Api) -> None:
    api.client.post("/v1/bundles/v2/shadow")
    other = api.services.host.runtime("v2")
    assert other is not None

    def broken(query: object) -> object:
        raise StageFailed("popular", "broken")

    for source in other.pipeline.sources:
        object.__setattr__(source, "recall", broken)
    assert api.recommend().json()["degraded"] == []
    eventually(lambda: report(api)["failed"] == 1)
    assert "popular" in report(api)["last_error"]
    assert 'recsys_shadow_total{result="failed"} 1.0' in api.client.get("/metrics").text


def test_a_shadow_without_one_of_its_stages_is_counted_as_failed_not_as_different(api: Api) -> None:
    api.apply([click("item-003")])
    api.client.post("/v1/bundles/same/shadow")
    other = api.services.host.runtime("same")
    assert other is not None

    def broken(query: object) -> object:
        raise ValueError("NaN")

    (tower,) = [source for source in other.pipeline.sources if source.name == "two_tower"]
    object.__setattr__(tower, "recall", broken)
    api.recommend()
    eventually(lambda: report(api)["failed"] == 1)
    assert report(api)["requests"] == 0
    assert report(api)["last_error"] == "two_tower: ValueError: NaN"


def test_an_arm_with_a_request_path_of_its_own_is_not_compared(
    make_api: Callable[..., Api], tmp_path: Path
) -> None:
    path = tmp_path / "experiments.yaml"
    path.write_text(
        "experiments: [{name: e, layer: l, arms: [{name: control}, {name: few, settings: {candidates: 5}}]}]"
    )
    api = make_api(shadow_share=1.0, experiments=path)
    write_tiny_bundle(api.services.settings.bundles, "same", seed=0, current=False)
    api.client.post("/v1/bundles/same/shadow")
    users = sorted(
        (f"u{i}" for i in range(12)),
        key=lambda user: api.services.experiments.of(user).arms["e"] == "control",
    )
    arms = [api.recommend(user, k=3).json()["arms"]["e"] for user in users]
    assert {*arms} == {"control", "few"}
    assert arms[-1] == "control"  # one thread takes them in turn: after it, all have been looked at
    eventually(lambda: report(api)["requests"] >= arms.count("control"))
    assert report(api)["requests"] == arms.count("control")
    assert report(api)["identical_share"] == 1


def test_a_share_of_the_requests_is_taken(make_api: Callable[..., Api]) -> None:
    api = make_api(shadow_share=0.25)
    write_tiny_bundle(api.services.settings.bundles, "v2", seed=5, current=False)
    api.client.post("/v1/bundles/v2/shadow")
    for i in range(12):
        api.recommend(f"u{i}", k=2)
    eventually(lambda: report(api)["requests"] == 3)


def test_bad_shadows_are_refused(api: Api, tmp_path: Path) -> None:
    assert api.client.post("/v1/bundles/v1/shadow").status_code == 409
    assert api.client.post("/v1/bundles/v9/shadow").status_code == 404
    (api.services.settings.bundles / "v2" / "ranker.onnx").write_bytes(b"not a model")
    assert api.client.post("/v1/bundles/v2/shadow").status_code == 422
    assert api.client.get("/v1/bundles/shadow").status_code == 404
    assert api.client.post("/v1/bundles/v1/unload").status_code == 409
    assert len(api.list_of(k=200)) == len(tiny_items())


def test_a_shadow_that_does_not_fit_is_a_conflict_and_not_begun(make_api: Callable[..., Api]) -> None:
    api = make_api(bundle_bytes=1)
    write_tiny_bundle(api.services.settings.bundles, "v2", seed=5, current=False)
    response = api.client.post("/v1/bundles/v2/shadow")
    assert response.status_code == 409
    assert "RECSYS_BUNDLE_BYTES" in response.json()["detail"]
    assert api.client.get("/v1/bundles/shadow").status_code == 404


def test_only_admins_begin_end_and_unload(make_api: Callable[..., Api], tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    reader, admin = new_key(path, "reader", [Scope.READ]), new_key(path, "admin", [Scope.ADMIN])
    api = make_api(api_keys=path)
    for method, url in (
        ("POST", "/v1/bundles/v1/shadow"),
        ("DELETE", "/v1/bundles/shadow"),
        ("POST", "/v1/bundles/v9/unload"),
    ):
        assert api.client.request(method, url).status_code == 401
        assert api.client.request(method, url, headers={"x-api-key": reader}).status_code == 403
        assert api.client.request(method, url, headers={"x-api-key": admin}).status_code not in (401, 403)
