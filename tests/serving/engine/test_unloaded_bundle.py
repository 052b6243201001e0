"""A loaded bundle is out of the garbage collector's reach, so an unloaded one must be freed without it."""

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from recsys.native import Native
from tests.bundles import write_tiny_bundle
from tests.serving.conftest import Api, click
from tests.serving.waiting import eventually


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("native", [Native.AUTO, Native.OFF])
def test_an_unloaded_bundle_is_freed_by_its_reference_counts(
    make_api: Callable[..., Api], no_collector: None, native: Native
) -> None:
    """After everything that may refer to it: requests, explanations, similar items, the item feed, a shadow."""
    api = make_api(
        native=native,
        shadow_share=1.0,
        result_cache_ms=0,
        vector_cache_bytes=1 << 20,
        deadline_ms=60_000,  # a late answer is not mirrored
    )
    bundles, host = api.services.settings.bundles, api.services.host
    write_tiny_bundle(bundles, "v2", seed=5, current=False)
    api.apply([click("item-003")])
    api.client.post("/v1/bundles/v2/shadow")
    for user in ("u1", "u2", "u1"):
        api.recommend(user, k=10)
        api.recommend(user, k=10, explain=True)
    api.client.get("/v1/items/item-003/similar")
    eventually(lambda: api.client.get("/v1/bundles/shadow").json()["requests"] > 0)
    api.client.delete("/v1/bundles/shadow")
    host.publish("v2")
    api.recommend("u1", k=10)

    runtime = host.runtime("v1")
    assert runtime is not None
    assert runtime.artifacts.tower.cache.bytes > 0
    artifacts = runtime.artifacts
    parts = [runtime.catalogue, runtime.live, artifacts.index, artifacts.tower, artifacts.trending]
    references = [weakref.ref(part) for part in (*parts, runtime.pipeline)]
    vectors = artifacts.tower.cache
    del runtime, artifacts, parts
    host.unload("v1")
    assert vectors.bytes == 0
    del vectors
    eventually(lambda: [kind for kind in (part() for part in references) if kind is not None] == [])
