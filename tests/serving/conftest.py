"""An API on a memory store, a memory log and the tiny bundle: everything real but the servers and the network."""

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson
import pytest
from starlette.testclient import TestClient

from recsys.contracts.events import Event, parse_event
from recsys.contracts.impression_record import read_impression
from recsys.contracts.types import EventType, Topic
from recsys.features.definitions import FEATURES
from recsys.store.base import Batch
from recsys.store.memory import MemoryFeatureStore
from serving import assembly
from serving.api.accepted_changes import SourceOfTruth
from serving.api.app import create_app
from serving.assembly import Services, compose
from serving.settings import ServingSettings
from serving.telemetry import Telemetry
from tests.bundles import write_tiny_bundle
from tests.memory_event_log import MemoryEventLog
from tests.serving.flaky import FlakySink, FlakyStore
from tests.serving.waiting import eventually

NOW_MS = 1_750_000_000_000


@dataclass
class Api:
    """The app in process, and the parts behind it that a test may break."""

    client: TestClient
    services: Services
    store: FlakyStore
    sink: FlakySink
    applied: int = field(default=0)

    def recommend(self, user_id: str = "u1", query: str = "", **body: Any) -> httpx.Response:
        response: httpx.Response = self.client.post(
            f"/v1/recommendations{query}", json={"user_id": user_id, **body}
        )
        return response

    def list_of(self, user_id: str = "u1", **body: Any) -> list[str]:
        response = self.recommend(user_id, **body)
        assert response.status_code == 200, response.text
        return [item["item_id"] for item in response.json()["items"]]

    def event(self, item_id: str, user_id: str = "u1", kind: str = "click", **more: Any) -> dict[str, Any]:
        return {"type": kind, "user_id": user_id, "item_id": item_id, **more}

    def logged(self, topic: Topic, at_least: int = 0) -> list[dict[str, Any]]:
        """What the log has taken, in order, once everything accepted has been delivered; a tombstone is None.

        at_least: impressions are written by a thread after the answer; wait for so many.
        """
        eventually(lambda: sum(taken.topic == topic for taken in self.sink.taken) >= at_least)
        assert self.services.outboxes.events.flush(20)
        assert self.services.outboxes.impressions.flush(20)
        values = [taken.value or b"null" for taken in self.sink.taken if taken.topic == topic]
        if topic == Topic.IMPRESSIONS:
            return [read_impression(value).to_dict() for value in values]
        return [orjson.loads(value) for value in values]

    def apply_events(self) -> None:
        """What the feature worker does: everything logged so far goes into the store."""
        events = [parse_event(raw) for raw in self.logged(Topic.EVENTS)]
        self.apply(events[self.applied :])
        self.applied = len(events)

    def apply(self, events: list[Event]) -> None:
        store = self.store.inner
        checkpoint = store.claim(Topic.EVENTS, 0, "log")
        n = checkpoint.offset
        offsets = list(range(n, n + len(events)))
        store.apply(Batch(Topic.EVENTS, 0, checkpoint.epoch, n, n + len(events), NOW_MS, offsets, events))


def click(item_id: str, user_id: str = "u1", at: int = NOW_MS - 60_000) -> Event:
    return Event(f"{user_id}-{item_id}-{at}", EventType.CLICK, user_id, item_id, at)


@pytest.fixture(scope="session", autouse=True)
def unsettled() -> Iterator[None]:
    """No app of a test looks through the heap of the whole test run, torch and all: most of a start's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "_settle", lambda: None)
        yield


@functools.cache
def _published() -> TemporaryDirectory[str]:
    """A folder with the tiny bundle, made once a process."""
    folder = TemporaryDirectory()
    write_tiny_bundle(Path(folder.name), "v1")
    return folder


@pytest.fixture
def make_api(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """`make_api(**settings)`; `bundle=False`: nothing is published; `truth`: in place of the topics."""
    clients: list[TestClient] = []

    def make(
        bundle: bool = True, home: Path | None = None, truth: SourceOfTruth | None = None, **settings: Any
    ) -> Api:
        api = open_api(home or tmp_path / "var", bundle, truth, **settings)
        clients.append(api.client)
        return api

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


def open_api(home: Path, bundle: bool = True, truth: SourceOfTruth | None = None, **settings: Any) -> Api:
    """Start an API in process; leave its client's context when done."""
    if bundle:
        shutil.copytree(_published().name, home / "bundles", dirs_exist_ok=True)
    store, sink = FlakyStore(MemoryFeatureStore(FEATURES)), FlakySink()
    made: list[Services] = []

    def services(given: ServingSettings, telemetry: Telemetry) -> Services:
        made.append(compose(given, telemetry, store, store, sink, now_ms=lambda: NOW_MS, truth=truth))
        return made[0]

    given = ServingSettings(home=home, **{"deadline_ms": 20_000, "bundle_poll_s": 0.05, **settings})
    client = TestClient(create_app(given, services), raise_server_exceptions=False)
    client.__enter__()
    return Api(client, made[0], store, sink)


def memory_services(given: ServingSettings, telemetry: Telemetry) -> Services:
    """Everything in memory, with nothing to break."""
    store = MemoryFeatureStore(FEATURES)
    return compose(given, telemetry, store, store, MemoryEventLog(), now_ms=lambda: NOW_MS)
