"""Serving last night's documents: the same list as from memory while nothing happens, and blind to what does."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from infra.cli.commands.features import app
from recsys.contracts.event_log import partition_of
from recsys.features.definitions import FEATURES
from recsys.features.feature_set import FeatureSet
from recsys.recall.ann import IndexConfig
from recsys.recall.index_kind import Kind
from recsys.recall.live_index import LiveIndex
from recsys.simulation.clock import WorldClock, wall_ms, write_clock
from recsys.store.base import Batch, StoreConfig
from recsys.store.nightly import NightlyStore
from recsys.store.nightly_job import write_nightly
from recsys.store.redis import RedisFeatureStore
from serving.api.app import create_app
from serving.assembly import Services, compose
from serving.engine.index_backend import IndexPlace
from serving.settings import FeatureSource, ServingSettings
from serving.telemetry import Telemetry
from tests.bundles import tiny_items, write_tiny_bundle
from tests.memory_event_log import MemoryEventLog
from tests.serving.conftest import NOW_MS, Api, click

pytestmark = pytest.mark.redis
CONFIG = StoreConfig(partitions=1)


def _apply(store: RedisFeatureStore, first: int, items: list[str]) -> None:
    epoch = store.claim("events", partition_of("u1", 1), "log").epoch
    events = [click(item, at=NOW_MS - 60_000 + first + i) for i, item in enumerate(items)]
    end = first + len(items)
    store.apply(Batch("events", 0, epoch, first, end, events[-1].event_time_ms, range(first, end), events))


def _response(home: Path, url: str, source: FeatureSource) -> Any:
    """The answer to u1, and the features that it was ranked by."""
    services: list[Services] = []

    def assembled(given: ServingSettings, telemetry: Telemetry) -> Services:
        nightly = None if source is FeatureSource.STREAM else NightlyStore(url, FEATURES)
        store, reads = (RedisFeatureStore(url, FEATURES, CONFIG) for _ in range(2))
        services.append(compose(given, telemetry, store, reads, MemoryEventLog(), lambda: NOW_MS, nightly))
        return services[0]

    given = ServingSettings(
        home=home, deadline_ms=20_000, feature_source=source, diversity="none", result_cache_ms=0
    )
    with TestClient(create_app(given, assembled)) as client:
        body = client.post("/v1/recommendations", json={"user_id": "u1", "k": 20}).json()
        return body, services[0].recommender.served.matrix("v1")


def _answer(home: Path, url: str, source: FeatureSource) -> Any:
    """A list of u1, in the order of scores, and the features that it was ranked by."""
    body, served = _response(home, url, source)
    assert body["degraded"] == []
    scores = [item["score"] for item in body["items"]]
    assert scores == sorted(scores, reverse=True)
    return [item["item_id"] for item in body["items"]], served


def test_documents_hold_what_the_stream_knew_and_no_more(redis_url: str, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundles", "v1")
    with (
        closing(RedisFeatureStore(redis_url, FEATURES, CONFIG)) as store,
        closing(NightlyStore(redis_url, FEATURES)) as nightly,
    ):
        _apply(store, 0, ["item-003", "item-004"])
        written = write_nightly(store, nightly, tiny_items(), NOW_MS)
        assert (written.items, written.users) == (len(tiny_items()), 1)
        assert nightly.user("u1") == store.user("u1")
        assert not nightly.user("nobody").cells
        assert nightly.items(["item-003", "nothing"])[1] is None
        found = {source: _answer(tmp_path, redis_url, source) for source in FeatureSource}
        items, features = found[FeatureSource.STREAM]
        for source in (FeatureSource.NIGHTLY, FeatureSource.DOCUMENTS):
            assert found[source][0] == items
            np.testing.assert_array_equal(found[source][1], features)

        _apply(store, 2, ["item-010", "item-011", "item-012"])
        assert _answer(tmp_path, redis_url, FeatureSource.STREAM)[0] != items
        assert _answer(tmp_path, redis_url, FeatureSource.DOCUMENTS)[0] == items


def test_an_item_that_is_newer_than_the_documents_is_as_one_without_events(
    redis_url: str, tmp_path: Path
) -> None:
    write_tiny_bundle(tmp_path / "bundles", "v1")
    empty, _ = _answer(tmp_path, redis_url, FeatureSource.DOCUMENTS)  # no documents at all
    assert empty == _answer(tmp_path, redis_url, FeatureSource.STREAM)[0]


def test_a_bundle_is_refused_while_the_documents_are_of_other_definitions(
    redis_url: str, tmp_path: Path
) -> None:
    write_tiny_bundle(tmp_path / "bundles", "v1")
    with closing(NightlyStore(redis_url, FeatureSet(FEATURES.features[:3]))) as other:
        other.write_items([("item-003", {})])
    for source in (FeatureSource.NIGHTLY, FeatureSource.DOCUMENTS):
        body = _response(tmp_path, redis_url, source)[0]
        assert "run `recsys features nightly`" in body["detail"]


def test_the_job_writes_as_of_the_simulated_time(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_bundle(tmp_path / "bundles", "v1")
    clock = tmp_path / "world-clock.json"
    write_clock(clock, WorldClock(wall_ms=1, world_ms=NOW_MS, speed=0, until_ms=NOW_MS))
    for name, value in {"HOME": tmp_path, "CLOCK": clock, "REDIS_URL": redis_url, "PARTITIONS": 1}.items():
        monkeypatch.setenv(f"RECSYS_{name}", str(value))
    monkeypatch.setenv("RECSYS_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    with (
        closing(RedisFeatureStore(redis_url, FEATURES, CONFIG)) as store,
        closing(NightlyStore(redis_url, FEATURES)) as nightly,
    ):
        _apply(store, 0, ["item-003", "item-004"])
        CliRunner().invoke(app, ["nightly"], catch_exceptions=False)
        found = nightly.items(["item-003"])
        write_nightly(store, nightly, tiny_items(), NOW_MS)
        assert found == nightly.items(["item-003"])
        write_nightly(store, nightly, tiny_items(), wall_ms())
        assert found != nightly.items(["item-003"])


def test_an_exact_index_is_searched_instead_of_the_bundles_and_gives_the_lists_of_a_flat_one(
    make_api: Callable[..., Api], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[LiveIndex] = []
    open_index = IndexPlace.open

    def recorded(place: IndexPlace, *arguments: Any) -> LiveIndex:
        opened.append(open_index(place, *arguments))
        return opened[-1]

    monkeypatch.setattr(IndexPlace, "open", recorded)
    for version, kind in (("flat", Kind.FLAT), ("codes", Kind.IVF_SQ8)):
        write_tiny_bundle(
            tmp_path / version / "bundles", version, tiny_items(1_200), index=IndexConfig(kind, lists=4)
        )
    lists, compressed = [], []
    for version, index in (("flat", "bundle"), ("codes", "bundle"), ("codes", "exact")):
        api = make_api(bundle=False, home=tmp_path / version, index=index)
        api.apply([click("item-003"), click("item-004")])
        lists.append(api.list_of(k=30))
        compressed.append(opened[-1]._view.base.index.compressed)
    assert compressed == [False, True, False]
    assert lists[0] == lists[2]
