"""Recall and ranking in processes of their own: the same answers as in one, and a defined answer when one is away."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import uvicorn
from msgspec import structs
from starlette.applications import Starlette

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.filters import parse_filter
from recsys.contracts.request import Query
from recsys.items.catalogue import Catalogue
from recsys.recall.item_vectors import ItemVectors, LinearPart
from recsys.recall.two_tower import TwoTowerSource, UserTower
from serving.engine.index_backend import IndexPlace
from serving.remote.client import RemoteServices, RemoteTwoTower
from serving.remote.messages import PREPARE, RANK, Array, Nearest, NearestCall, Prepare, RankCall
from serving.remote.recall_service import RecallService
from serving.remote.service import RequestedVersions
from serving.remote.transport import RpcClient
from serving.service_assembly import assemble_service, recall_app
from serving.settings import Role, ServingSettings
from serving.telemetry import Telemetry
from tests.bundles import tiny_items, tiny_linear, write_tiny_bundle
from tests.serving.conftest import NOW_MS, Api, click, open_api
from tests.serving.waiting import eventually


@contextmanager
def listening(app: Starlette, path: Path) -> Iterator[None]:
    """The app under uvicorn on a Unix socket, in a thread."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    eventually(lambda: server.started)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
        path.unlink()


class Services:
    """Both other processes, on the home and the store of an API."""

    def __init__(self, home: Path, sockets: Path) -> None:
        self.home = home
        self._sockets = sockets
        self._open: dict[Role, ExitStack] = {}
        self.api: Api | None = None

    def url(self, role: Role) -> str:
        return f"unix:{self._sockets / role}.sock"

    def start(self, role: Role) -> None:
        settings = ServingSettings(home=self.home, role=role, bundle_poll_s=0.05)
        if role is Role.RANK:
            app = assemble_service(settings, Telemetry())
        else:
            assert self.api is not None
            app = recall_app(settings, Telemetry(), self.api.store)
        self._open[role] = ExitStack()
        self._open[role].enter_context(listening(app, self._sockets / f"{role}.sock"))

    def stop(self, role: Role) -> None:
        self._open.pop(role).close()

    def close(self) -> None:
        for role in list(self._open):
            self.stop(role)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    services = Services(tmp_path / "var", tmp_path)
    yield services
    services.close()


@pytest.fixture(params=["local", "remote"])
def api(request: pytest.FixtureRequest, services: Services, make_api: Callable[..., Api]) -> Api:
    """The contract's API, in one process or in three."""
    return make_api() if request.param == "local" else remote(services, make_api)


def remote(services: Services, make_api: Callable[..., Api], **settings: Any) -> Api:
    urls = {"recall_url": services.url(Role.RECALL), "rank_url": services.url(Role.RANK)}
    services.api = api = make_api(**urls, **settings)
    for role in (Role.RECALL, Role.RANK):
        services.start(role)
    eventually(lambda: api.recommend("nobody", k=1).json()["degraded"] == [])
    return api


def test_lists_are_complete_and_nothing_is_degraded(api: Api) -> None:
    api.apply([click("item-003"), click("item-010")])
    answer = api.recommend(k=10).json()
    assert answer["degraded"] == []
    channels = {channel for item in answer["items"] for channel in item["channels"]}
    assert "two_tower" in channels
    assert not {"item-003", "item-010"} & {item["item_id"] for item in answer["items"]}


def test_a_new_item_is_recalled_and_a_deleted_one_is_not(api: Api) -> None:
    api.apply([click("item-003")])
    api.client.post("/v1/items", json={"item_id": "new", "title": "New", "categories": ["category-1"]})
    api.client.delete("/v1/items/item-004")
    eventually(lambda: "new" in api.list_of(k=200) and "item-004" not in api.list_of(k=200))
    assert api.recommend().json()["degraded"] == []


def test_a_swap_degrades_no_answer(api: Api) -> None:
    api.apply([click("item-003")])
    bundles = api.services.settings.bundles
    write_tiny_bundle(bundles, "v2", seed=5, current=False)
    before = api.list_of(k=10)
    api.services.host.publish("v2")
    answer = api.recommend(k=10).json()
    assert (answer["bundle"], answer["degraded"]) == ("v2", [])
    assert [item["item_id"] for item in answer["items"]] != before
    api.services.host.publish("v1")
    assert api.list_of(k=10) == before


def test_ranking_own_candidates(api: Api) -> None:
    answer = api.client.post("/v1/rank", json={"user_id": "u", "items": ["item-001", "item-002"]}).json()
    assert answer["degraded"] == []
    assert len(answer["items"]) == 2


def test_both_forms_give_the_same_lists_and_scores(services: Services, make_api: Callable[..., Api]) -> None:
    one, three = make_api(), remote(services, make_api, bundle=False)
    history = [click(f"item-{i:03d}", at=1_749_999_000_000 + i) for i in (3, 9, 27)]
    new = {"item_id": "new", "title": "New", "categories": ["category-1"], "created_ms": 1}
    for api in (one, three):
        api.apply(history)
        api.client.post("/v1/items", json=new)
    eventually(lambda: all("new" in api.list_of(k=200) for api in (one, three)))
    for user in ("u1", "nobody"):
        first, second = (api.recommend(user, k=40).json()["items"] for api in (one, three))
        assert [i["item_id"] for i in first] == [i["item_id"] for i in second]
        assert [i["score"] for i in first] == [i["score"] for i in second]
        assert [i["channels"] for i in first] == [i["channels"] for i in second]


@pytest.mark.parametrize(
    ("role", "stage"), [(Role.RECALL, "two_tower"), (Role.RANK, "rank")], ids=lambda v: str(v)
)
def test_a_part_that_dies_is_named_and_is_used_again_when_it_is_back(
    services: Services, make_api: Callable[..., Api], role: Role, stage: str
) -> None:
    api = remote(services, make_api)
    api.apply([click("item-003")])
    services.stop(role)
    answer = api.recommend(k=10).json()
    assert answer["degraded"] == [stage]
    assert len(answer["items"]) == 10
    services.start(role)
    eventually(lambda: api.recommend(k=10).json()["degraded"] == [])


def test_an_api_starts_while_its_parts_are_away(services: Services, make_api: Callable[..., Api]) -> None:
    api = make_api(recall_url=services.url(Role.RECALL), rank_url=services.url(Role.RANK))
    api.apply([click("item-003")])
    assert api.recommend(k=5).json()["degraded"] == ["two_tower", "rank"]


def test_a_part_refuses_what_it_does_not_understand_and_loads_what_it_is_asked_for(
    services: Services,
) -> None:
    write_tiny_bundle(services.home / "bundles", "v1")
    write_tiny_bundle(services.home / "bundles", "v2", seed=1, current=False)
    services.start(Role.RANK)
    client = RpcClient(services.url(Role.RANK), 20)
    with pytest.raises(Unavailable, match="422"):
        client.call(RANK, {"no": "call"}, dict[str, Array])
    with pytest.raises(Unavailable, match="404"):
        client.call("/services/nearest", {}, Nearest)
    with pytest.raises(Unavailable, match="422.*no manifest"):
        client.call(PREPARE, Prepare("v9"), bool)
    wrong = RankCall("v1", {"history": Array("<f8", (1,), b"12345678")})
    client = RpcClient(services.url(Role.RANK), 20)  # another breaker
    with pytest.raises(Unavailable, match="422.*dtype"):
        client.call(RANK, wrong, dict[str, Array])
    with pytest.raises(Unavailable, match="503.*not loaded"):
        client.call(RANK, RankCall("v2", {}), dict[str, Array])

    def status() -> str:
        with pytest.raises(Unavailable) as refused:
            RpcClient(services.url(Role.RANK), 20).call(RANK, RankCall("v2", {}), dict[str, Array])
        return str(refused.value)

    eventually(lambda: "422" in status())  # loaded meanwhile: now it is the inputs that are wrong
    client.close()


def test_arrays_travel_as_they_are_and_nothing_else_does() -> None:
    for array in (np.arange(6, dtype=np.int64).reshape(2, 3), np.zeros((0, 4), np.float32)):
        np.testing.assert_array_equal(Array.of(array).numpy(), array)
        assert Array.of(array).numpy().dtype == array.dtype
    with pytest.raises(ValueError, match="dtype"):
        Array("|O", (1,), b"").numpy()
    with pytest.raises(ValueError, match="reshape"):
        Array("<f4", (3,), b"1234").numpy()


@pytest.mark.parametrize("url", ["", "localhost:8000", "https://x", "unix:", "http://"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(InvalidConfig, match="unix:/path"):
        RpcClient(url, 1)


def test_items_that_this_process_does_not_know_yet_are_left_out(make_api: Callable[..., Api]) -> None:
    api = make_api()
    catalogue = api.services.host.require().catalogue
    source = RemoteTwoTower(RpcClient("unix:/nowhere", 1), "v1", catalogue, 10)
    rows = source._rows(Nearest(Array.of(np.array([4, -1, 7, -2], np.int32)), ["item-009", "unheard of"]))
    assert rows.tolist() == [4, 9, 7]


class Here:
    """A client that goes nowhere: what the recall process would do, over the same wire format."""

    def __init__(self, bundle: Bundle, place: IndexPlace) -> None:
        self._part = RecallService(bundle, place)

    def call(self, path: str, call: NearestCall, kind: type[Nearest]) -> Nearest:
        arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(call), type=NearestCall)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(self._part.nearest(arrived)), type=kind)


@pytest.mark.parametrize("profile", [False, True])
@pytest.mark.parametrize("attributes", [{}, {"gender": "F"}, {"gender": "M", "age": "20"}], ids=str)
@pytest.mark.parametrize("history", [(), (3, 9)], ids=str)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("linear", [None, tiny_linear(len(tiny_items()))], ids=["tower", "linear"])
def test_what_is_known_of_a_user_reaches_the_tower_of_another_process(
    tmp_path: Path,
    linear: LinearPart | None,
    shards: int,
    history: tuple[int, ...],
    attributes: dict[str, str],
    profile: bool,
) -> None:
    bundle = write_tiny_bundle(tmp_path, profile=profile, linear=linear)
    encoded = np.pad(np.array(history, np.int64), (5 - len(history), 0))
    query = Query("r", "u", 5, NOW_MS, attributes=attributes, history=encoded, types=encoded, gaps=encoded)
    items = ItemVectors.of(bundle.arrays("item_vectors.safetensors"))
    tower = UserTower(bundle.file("user_tower.onnx"), items.vectors, linear=items.linear)
    here = TwoTowerSource(tower, IndexPlace().open(bundle, items), limit=7)
    there = RemoteTwoTower(
        cast("RpcClient", Here(bundle, IndexPlace(shards))), "tiny", Catalogue(tiny_items()), 7
    )
    found = here.recall(query).tolist()
    assert there.recall(query).tolist() == found
    assert len(found) == (7 if history or (attributes and profile) else 0)


def test_a_filter_a_region_and_the_time_reach_the_index_of_another_process(tmp_path: Path) -> None:
    items = [replace(item, regions=("de",)) if n % 2 else item for n, item in enumerate(tiny_items())]
    bundle = write_tiny_bundle(tmp_path, items=items)
    encoded = np.array([3, 9], np.int64)
    there = RemoteTwoTower(cast("RpcClient", Here(bundle, IndexPlace())), "tiny", Catalogue(items), 40)

    def found(asked: str, region: str, now_ms: int = NOW_MS) -> set[int]:
        parsed = parse_filter(asked) if asked else None
        query = Query("r", "u", 5, now_ms, filter=parsed, region=region)
        query = structs.replace(query, history=encoded, types=encoded, gaps=encoded)
        return set(there.recall(query).tolist())

    assert found("", "de") == set(range(40))
    assert found("", "") == set(range(0, 40, 2))
    assert found("", "de", items[9].created_ms) == set(range(10))
    assert found("'category-1' in categories", "de") == set(range(1, 40, 4))
    assert found("unheard_of == 1", "de") == set(), (
        "the caller knows an item that this process does not have yet"
    )


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[str]:
    """The URL of a process that takes a call and ends in the middle of it."""
    path = tmp_path / "dying.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def accept() -> None:
        with suppress(OSError):
            while True:
                listener.accept()[0].close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"unix:{path}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_process_that_ends_in_the_middle_of_a_call_is_away(dying: str) -> None:
    client = RpcClient(dying, 1)
    for _ in range(3):
        with pytest.raises(Unavailable, match=dying):
            client.call(PREPARE, Prepare("v1"), bool)
    with pytest.raises(Unavailable, match="tried again in a moment"):  # the breaker has counted them
        client.call(PREPARE, Prepare("v1"), bool)
    RemoteServices(recall=RpcClient(dying, 1)).prepare("v1")  # keeps nobody from loading a bundle


def test_a_refused_call_does_not_keep_the_next_one_from_being_sent(services: Services) -> None:
    write_tiny_bundle(services.home / "bundles", "v1")
    services.start(Role.RANK)
    client = RpcClient(services.url(Role.RANK), 20)
    for _ in range(4):  # as an arm's bundle that is not loaded there; the breaker opens after three failures
        with pytest.raises(Unavailable, match="503.*not loaded"):
            client.call(RANK, RankCall("v9", {}), dict[str, Array])
    assert client.call(PREPARE, Prepare("v1"), bool)
    client.close()


def test_a_version_in_use_is_not_pushed_out_by_versions_that_were_only_tried() -> None:
    asked = RequestedVersions()
    for version in ("used", "a", "b", "c", "used", "d", "e", "f"):
        asked.note(version)
    assert asked.versions() == {"used", "d", "e", "f"}


def test_connections_are_closed_with_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[RpcClient] = []
    monkeypatch.setattr(RpcClient, "close", lambda client: closed.append(client))
    nobody = f"unix:{tmp_path}/nobody.sock"
    api = open_api(tmp_path / "var", recall_url=nobody, rank_url=nobody)
    api.client.__exit__(None, None, None)
    assert len(closed) == 2
