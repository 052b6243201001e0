"""What devices get: a list that they can rerank to the server's scores, and models with deltas that caches may keep."""

import hashlib
import zlib
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from recsys.contracts.types import Item
from recsys.features.definitions import FEATURES
from recsys.models.onnx_session import open_session
from recsys.ranking.edge import EDGE, INPUTS, OUTPUTS
from serving.api.security import new_key
from serving.settings import Scope
from tests.bundles import tiny_items, write_tiny_bundle
from tests.edge_bundles import write_edge_bundle
from tests.serving.conftest import NOW_MS, Api, click, open_api


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles with models, v2 published; before them one without."""
    folder = tmp_path_factory.mktemp("home")
    write_tiny_bundle(folder / "bundles", "v0", current=False)
    for seed, version in enumerate(("v1", "v2")):
        write_edge_bundle(folder / "bundles", version, seed, created_ms=NOW_MS + seed)
    return folder


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[Api]:
    opened = open_api(home, bundle=False)
    yield opened
    opened.client.__exit__(None, None, None)


def array(text: str, dtype: str, *shape: int) -> NDArray[Any]:
    return np.frombuffer(b64decode(text), dtype).reshape(shape)


def inputs(sent: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """As a device reads them, from the document alone."""
    n, features, history = len(sent["items"]), sent["features"], sent["history"]
    matrix = np.tile(array(features["shared"], "<f4", 1, -1), (n, 1))
    matrix[:, features["columns"]] = array(features["varying"], "<f4", -1, n).T
    return {
        "history_rows": array(history["rows"], "<i2", len(history["types"]), -1),
        "history_scales": array(history["scales"], "<f4", -1),
        "types": np.array(history["types"], np.int32),
        "gaps": np.array(history["gaps"], np.int32),
        "rows": array(sent["rows"], "<i2", n, -1),
        "scales": array(sent["scales"], "<f4", -1),
        "features": matrix,
        "weights": np.array(sent["weights"], np.float32),
    }


def get(client: TestClient, path: str, status: int = 200, headers: dict[str, str] | None = None) -> Any:
    response = client.get(path, headers=headers)
    assert response.status_code == status, response.text
    return response


@pytest.mark.parametrize("clicked", [[], ["item-003", "item-007", "item-011"]])
def test_a_device_computes_the_servers_scores_from_what_it_is_sent(api: Api, clicked: list[str]) -> None:
    user = f"u{len(clicked)}"
    api.apply([click(item, user, NOW_MS - 9_000 + i) for i, item in enumerate(clicked)])
    answer = api.recommend(user, k=5, edge=True).json()
    sent, manifest = answer["edge"], get(api.client, "/v1/edge/manifest").json()
    assert sent["model"] == manifest["model"]
    model = get(api.client, f"/v1/edge/model/{sent['model']}").content
    given = inputs(sent)
    assert tuple(given) == INPUTS
    found = np.stack(open_session(EDGE, model).run(OUTPUTS, given))
    np.testing.assert_allclose(found, array(sent["scores"], "<f4", len(OUTPUTS), -1), rtol=1e-4, atol=1e-4)
    # the candidates are those that the shown items were chosen from, by the score that orders them
    scores = [item["score"] for item in sent["items"]]
    assert scores == sorted(scores, reverse=True)
    assert {item["item_id"] for item in answer["items"]} < {item["item_id"] for item in sent["items"]}
    assert not {item["item_id"] for item in sent["items"]} & set(clicked)
    assert sent["history"]["newest_ms"] == (NOW_MS - 9_000 + len(clicked) - 1 if clicked else 0)
    assert np.count_nonzero(given["history_scales"]) == len(clicked)
    assert given["features"].shape[1] == FEATURES.dimension


def test_an_item_that_the_model_does_not_know_is_named(api: Api) -> None:
    live, item = api.services.host.require().live, Item("brand-new", "New", ("category-1",), "c", NOW_MS - 1)
    live.apply([(item.item_id, item)], [])
    sent = api.recommend("u9", k=5, edge=True).json()["edge"]
    live.apply([(item.item_id, None)], [])
    assert [sent["items"][place]["item_id"] for place in sent["new"]] == [item.item_id]


def test_a_list_is_for_a_device_only_if_it_asks(api: Api) -> None:
    assert "edge" not in api.recommend("u8", k=5).json()
    assert "edge" not in api.recommend("u8", k=5).json()  # nor the cached one
    assert api.recommend("u8", k=5, edge=True).json()["cached"] is False


def test_the_golden_arrays_prove_the_model(api: Api) -> None:
    manifest = get(api.client, "/v1/edge/manifest").json()
    arrays = {n: array(a["data"], a["dtype"], *a["shape"]) for n, a in manifest["golden"].items()}
    model = get(api.client, f"/v1/edge/model/{manifest['model']}").content
    assert (len(model), hashlib.sha256(model).hexdigest()) == (manifest["bytes"], manifest["model"])
    found = open_session(EDGE, model).run(OUTPUTS, {name: arrays[f"in/{name}"] for name in INPUTS})
    for name, scores in zip(OUTPUTS, found, strict=True):
        np.testing.assert_allclose(scores, arrays[f"out/{name}"], rtol=1e-4, atol=1e-4)
    assert manifest["history"] == 50
    assert manifest["types"]["click"] > 0


def test_a_delta_makes_the_new_model_of_the_one_before(api: Api, home: Path) -> None:
    manifest = get(api.client, "/v1/edge/manifest").json()
    base = (home / "bundles" / "v1" / EDGE).read_bytes()
    [(version, facts)] = manifest["deltas"].items()
    assert version == hashlib.sha256(base).hexdigest()
    sent = get(api.client, f"/v1/edge/delta/{version}/{manifest['model']}").content
    assert (len(sent), hashlib.sha256(sent).hexdigest()) == (facts["bytes"], facts["sha256"])
    assert len(sent) < manifest["bytes"]
    added = np.frombuffer(base, np.uint8) + np.frombuffer(zlib.decompress(sent), np.uint8)
    assert hashlib.sha256(added.tobytes()).hexdigest() == manifest["model"]


def test_caches_may_keep_a_model_forever_and_the_manifest_for_a_moment(api: Api) -> None:
    manifest = get(api.client, "/v1/edge/manifest")
    version = manifest.json()["model"]
    assert manifest.headers["cache-control"] == "public, max-age=30, stale-while-revalidate=600"
    assert manifest.headers["etag"].startswith('"v2-')
    model = get(api.client, f"/v1/edge/model/{version}")
    assert model.headers["cache-control"] == "public, max-age=31536000, immutable"
    for path, etag in (("manifest", manifest.headers["etag"]), (f"model/{version}", model.headers["etag"])):
        again = get(api.client, f"/v1/edge/{path}", 304, {"if-none-match": etag})
        assert again.content == b""
        assert again.headers["etag"] == etag


@pytest.mark.parametrize("path", ["/v1/popular?k=3", "/v1/items/item-003/similar?k=3"])
def test_what_is_the_same_for_everybody_may_be_cached_and_personal_lists_may_not(api: Api, path: str) -> None:
    sent = get(api.client, path)
    assert len(sent.json()["items"]) == 3
    assert sent.headers["cache-control"] == "public, max-age=30, stale-while-revalidate=600"
    etag = sent.headers["etag"]
    assert get(api.client, path, 304, {"if-none-match": f'"other", {etag}'}).content == b""
    assert (
        get(api.client, path.replace("k=3", "k=4"), headers={"if-none-match": etag}).headers["etag"] != etag
    )
    for edge in (True, False):
        assert api.recommend(k=3, edge=edge).headers["cache-control"] == "no-store"
    assert get(api.client, "/v1/users/u1").headers["cache-control"] == "no-store"


def test_popular_items_are_those_that_may_be_shown(api: Api) -> None:
    live = api.services.host.require().live
    best = [item["item_id"] for item in get(api.client, "/v1/popular?k=2").json()["items"]]
    live.apply([(best[0], None)], [])
    assert best[0] not in [item["item_id"] for item in get(api.client, "/v1/popular?k=50").json()["items"]]
    live.apply([(best[0], tiny_items()[int(best[0].removeprefix("item-"))])], [])
    assert get(api.client, "/v1/popular?k=2").json()["items"][0]["item_id"] == best[0]


def test_what_is_not_there_says_what_to_do(api: Api, make_api: Any) -> None:
    nothing = "0" * 64
    assert "recsys train rank" in get(api.client, f"/v1/edge/model/{nothing}", 404).json()["detail"]
    version = get(api.client, "/v1/edge/manifest").json()["model"]
    gone = get(api.client, f"/v1/edge/delta/{nothing}/{version}", 404).json()["detail"]
    assert f"GET /v1/edge/model/{version}" in gone
    get(api.client, "/v1/edge/model/../../CURRENT", 404)
    get(api.client, "/v1/edge/model/x", 422)
    plain = make_api()  # the tiny bundle's ranker is no student
    get(plain.client, "/v1/edge/manifest", 404)
    assert "edge" not in plain.recommend(k=3, edge=True).json()


def test_with_keys_no_shared_cache_answers(home: Path, tmp_path: Path) -> None:
    key = new_key(tmp_path / "keys.json", "shop", [Scope.READ])
    api = open_api(home, bundle=False, api_keys=tmp_path / "keys.json")
    get(api.client, "/v1/edge/manifest", 401)
    sent = get(api.client, "/v1/edge/manifest", headers={"x-api-key": key})
    assert sent.headers["cache-control"].startswith("private")
    api.client.__exit__(None, None, None)
