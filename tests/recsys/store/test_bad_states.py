"""A Redis in a bad state, put there for real where it can be, answered by a fake where it cannot."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.local.redis import RedisServer
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidConfig, InvalidData, Unavailable
from recsys.contracts.events import Event
from recsys.contracts.state import EntityState
from recsys.contracts.types import EventType, Item, User
from recsys.features.definitions import FEATURES
from recsys.store.base import Applied, Batch, Outcome, StoreConfig
from recsys.store.nightly import NightlyStore
from recsys.store.redis import RedisFeatureStore
from recsys.store.redis_client import _STATES
from recsys.store.replays import RedisReplays
from recsys.store.token_bucket import RedisTokenBuckets

pytestmark = pytest.mark.redis

T0 = 1_700_000_000_000
CONFIG = StoreConfig(partitions=1)
ERRORS = {
    "ASK": "ASK 1 127.0.0.1:2",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "MOVED": "MOVED 3999 127.0.0.1:6381",
}
QUOTED = (  # by a script of Redis 6, by a transaction
    "ERR Error running script (call to f_6b1bf486c81ceb7edf3c093f4c48582e38c0e791): @user_script:1: -OOM command not"
    " allowed when used memory > 'maxmemory'.",
    "EXECABORT Transaction discarded because of: MISCONF Errors writing to the AOF file: No space left on device",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "ERR max number of clients reached",
)


def answers(error: str) -> AbstractContextManager[str]:
    """The URL of a server that answers each command with this error."""

    def refuse(content: bytes) -> bytes:
        commands = sum(line.startswith(b"*") and line[1:].isdigit() for line in content.split(b"\r\n"))
        return f"-{error}\r\n".encode() * commands

    return talks(refuse)


@contextmanager
def talks(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """The URL of a server that answers what comes with these bytes."""

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client may have left
            while content := connection.recv(1 << 16):
                connection.sendall(answer(content))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def calls(url: str, timeout_s: float = 0.5) -> dict[str, Callable[[], object]]:
    """Every way in which this project speaks to Redis."""
    store = RedisFeatureStore(url, FEATURES, CONFIG, timeout_s=timeout_s)
    nightly = NightlyStore(url, FEATURES, timeout_s=timeout_s)
    return {
        "claim": lambda: store.claim("events", 0, "log"),
        "checkpoint": lambda: store.checkpoint("events", 0),
        "apply": lambda: store.apply(batch(1, [click("1")])),
        "heartbeat": lambda: store.workers("w", 1000),
        "leave": lambda: store.leave("w"),
        "report": lambda: store.report("w", b"", 1000),
        "reports": store.reports,
        "ping": store.ping,
        "fingerprint": store.fingerprint,
        "user": lambda: store.user("u"),
        "user ids": lambda: list(store.user_ids()),
        "history": lambda: store.history_version("u", "engaged"),
        "items": lambda: store.items(["i"]),
        "all items": lambda: list(store.all_items()),
        "changes": lambda: store.changed_items("", 0),
        "catalogue": lambda: list(store.catalogue()),
        "forget": lambda: store.forget_user("u"),
        "users": lambda: store.change_users([UserChange("u", User("u", {}), T0)]),
        "nightly read": lambda: nightly.user("u"),
        "nightly write": lambda: nightly.write_users([("u", EntityState())]),
        "replay": lambda: RedisReplays(url, 1, timeout_s).get("k"),
        "tokens": lambda: RedisTokenBuckets(url, 1.0, 1, timeout_s).take("k"),
    }


def batch(epoch: int, events: list[Event], first: int = 0) -> Batch:
    end = first + len(events)
    return Batch("events", 0, epoch, first, end, T0, range(first, end), events)


def click(event_id: str, user: str = "u", item: str = "i") -> Event:
    return Event(event_id, EventType.CLICK, user, item, T0, context={"categories": "A"})


@pytest.mark.parametrize("error", [*(ERRORS.get(s, f"{s} in words") for s in _STATES), *QUOTED])
def test_a_server_in_a_bad_state_is_unavailable_for_every_caller(error: str) -> None:
    state = error.split()[0]
    with answers(error) as url:
        for name, call in calls(url).items():
            if state == "WRONGTYPE" and name in ("user", "history", "users", "items", "nightly read"):
                continue  # one damaged entity: below
            with pytest.raises(Unavailable) as raised:
                call()
            assert state not in _STATES or state in str(raised.value), name


@settings(max_examples=15, deadline=None)
@given(st.binary(max_size=40).map(b"\x15".__add__), st.sampled_from([b"", b"$9999\r\nhel"]))
@example(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"")
@example(b"*1\r\n" * 3_000, b"")
def test_what_is_no_redis_server_is_unavailable_for_every_caller(content: bytes, before: bytes) -> None:
    """Another program's port in the URL; a proxy that breaks an answer off and sends a page of its own.

    What is broken off is longer than all that follows it, or a later reply would complete it.
    """
    with talks(lambda _: before + content) as url:
        for call in calls(url, timeout_s=0.05).values():
            with pytest.raises(Unavailable):
                call()


def test_it_says_that_it_is_no_redis_server() -> None:
    with talks(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        store = RedisFeatureStore(url, FEATURES, CONFIG)
        with pytest.raises(Unavailable, match="no Redis server.*RECSYS_REDIS_URL"):
            store.ping()


def test_an_error_in_the_code_is_not_taken_for_an_outage() -> None:
    unknown = "ERR unknown command 'OOM', with args beginning with: 'MISCONF'"
    with answers(unknown) as url, pytest.raises(redis.ResponseError):
        RedisFeatureStore(url, FEATURES, CONFIG).ping()


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(own_server: RedisServer) -> Iterator[Any]:
    client = redis.Redis.from_url(own_server.url, decode_responses=True)
    client.flushdb()
    yield client
    client.close()


def test_a_real_server_in_each_state(own_server: RedisServer, client: Any) -> None:
    store = RedisFeatureStore(own_server.url, FEATURES, CONFIG, timeout_s=0.5)
    epoch = store.claim("events", 0, "log").epoch
    blocking = threading.Thread(target=_block, args=(own_server,))
    snapshot = own_server.data / "dump.rdb"

    def disk_full() -> None:
        snapshot.mkdir()  # where the file should be
        client.config_set("save", "3600 1")
        client.bgsave()
        while client.info("persistence")["rdb_bgsave_in_progress"]:
            time.sleep(0.01)

    def busy() -> None:
        client.config_set("busy-reply-threshold", 1)
        blocking.start()
        with suppress(redis.ResponseError):  # once it is busy
            while client.ping():
                time.sleep(0.01)

    enter: dict[str, Callable[[], object]] = {
        "OOM": lambda: client.config_set("maxmemory", "1mb"),
        "NOREPLICAS": lambda: client.config_set("min-replicas-to-write", 1),
        "READONLY": lambda: client.replicaof("127.0.0.1", 1),
        "MISCONF": disk_full,
        "BUSY": busy,
    }

    def leave() -> None:
        client.config_set("maxmemory", 0, "min-replicas-to-write", 0, "save", "")
        client.replicaof("NO", "ONE")

    for state, begin in enter.items():
        try:
            begin()
            with pytest.raises(Unavailable, match=state):
                store.apply(batch(epoch, [click(state)]))
        finally:
            if state == "BUSY":
                client.script_kill()
                blocking.join()
            leave()
    n = sum(store.apply(batch(epoch, [click(state)], i)).applied for i, state in enumerate(enter))
    assert n == len(enter), "what was refused is not known: it is applied later, once"
    assert client.hlen("recsys:{0}:u:u") > 0


def test_an_account_that_may_not_all_is_refused_before_it_writes_a_part(
    own_server: RedisServer, client: Any
) -> None:
    for missing in ("zadd", "hset", "xadd", "pexpireat", "zpopmin", "sadd", "set", "hmget", "smismember"):
        client.acl_setuser(
            "worker", enabled=True, reset=True, nopass=True, keys="*", commands=["+@all", f"-{missing}"]
        )
        url = own_server.url.replace("redis://", "redis://worker:x@")
        with pytest.raises(Unavailable, match="NOPERM"):
            RedisFeatureStore(url, FEATURES, CONFIG).claim("events", 0, "log")
    RedisFeatureStore(own_server.url, FEATURES, CONFIG).claim("events", 0, "log")
    assert not client.exists("recsys:{0}:probe")


def test_a_server_that_may_evict_is_refused(own_server: RedisServer, client: Any) -> None:
    store = RedisFeatureStore(own_server.url, FEATURES, CONFIG)
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(InvalidConfig, match="set it to noeviction"):
            store.claim("events", 0, "log")
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    # INFO is forbidden, too: said in the log, not refused
    client.acl_setuser("blind", enabled=True, reset=True, nopass=True, keys="*", commands=["+@all", "-info"])
    RedisFeatureStore(own_server.url.replace("redis://", "redis://blind:x@"), FEATURES, CONFIG).claim(
        "events", 0, "log"
    )


def test_states_without_an_offset_are_not_counted_again(own_server: RedisServer, client: Any) -> None:
    store = RedisFeatureStore(own_server.url, FEATURES, CONFIG)
    store.apply(batch(store.claim("events", 0, "log").epoch, [click("1")]))
    client.delete("recsys:{0}:cp:events")
    with pytest.raises(InvalidData, match="features backfill"):
        store.claim("events", 0, "log")
    store.claim("impressions", 0, "log")  # nothing of it was counted


def test_a_damaged_entity_is_skipped_counted_and_named(own_server: RedisServer, client: Any) -> None:
    store = RedisFeatureStore(own_server.url, FEATURES, CONFIG)
    epoch = store.claim("events", 0, "log").epoch
    damaged = ["recsys:{0}:u:u", "recsys:{0}:i:i", "recsys:{0}:h:seen:u", "recsys:{0}:a:u"]
    for key in damaged:
        client.set(key, "foreign")
    first = store.apply(batch(epoch, [click("1"), click("2", "other", "fine")]))
    assert first == Applied(Outcome.APPLIED, 2, 2)
    store.change_users([UserChange(u, User(u, {"country": "se"}), T0) for u in ("u", "other")])
    assert set(store.damaged()) == set(damaged)

    reader = RedisFeatureStore(own_server.url, FEATURES, CONFIG)
    assert not reader.user("u").cells
    assert reader.user("other").cells
    assert reader.user("other").attributes == {"country": "se"}
    assert [bool(state.cells) for state in reader.items(["i", "fine"])] == [False, True]
    assert [item for item, _ in reader.all_items()] == ["fine"]
    reader.history_version("u", "engaged")
    assert set(reader.damaged()) == set(damaged)
    client.delete(*damaged)
    store.apply(batch(epoch, [click("3")], 2))
    assert reader.user("u").cells, "usable again once the foreign value is gone"


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    "field, value",
    [
        (b"", b"4.8e+18"),  # what a sum became before sums saturated
        (b"", b"9" * 30),
        (b"", b"nan"),
        (b"odd", b"1"),
        (b"\xff" * 8, b"1"),
        (b"\x00\xff" * 4, b"1"),  # of no aggregate
    ],
)
def test_cells_that_are_not_ours_hide_their_entity_alone(
    own_server: RedisServer, field: bytes, value: bytes
) -> None:
    store = RedisFeatureStore(own_server.url, FEATURES, CONFIG)
    epoch = store.claim("events", 0, "log").epoch
    store.apply(batch(epoch, [click("1"), click("2", "other", "fine")]))
    damaged = ["recsys:{0}:u:u", "recsys:{0}:i:i"]
    with closing(redis.Redis.from_url(own_server.url)) as raw:
        for key in damaged:
            raw.hset(key, field or raw.hkeys(key)[0], value)
    assert not store.user("u").cells
    assert len(store.user("u").histories["seen"]) == 1
    assert dict(store.all_items()).keys() == {"fine"}
    assert [bool(state.cells) for state in store.items(["i", "fine"])] == [False, True]
    assert list(store.damaged()) == damaged
    assert store.apply(batch(epoch, [click("3")], 2)).outcome is Outcome.APPLIED, "writing works"


def test_records_that_are_not_ours_hide_themselves_alone(own_server: RedisServer, client: Any) -> None:
    store = RedisFeatureStore(own_server.url, FEATURES, CONFIG)
    store.apply(batch(store.claim("events", 0, "log").epoch, [click("1")]))
    store.change_items([ItemChange(name, Item(name), T0) for name in ("a", "b", "c")])
    client.hset("recsys:{c}:catalogue", "a", b'{"item_id": "a", "created_ms": 1' + b"0" * 30 + b"}")
    client.hset("recsys:{c}:catalogue", "b", b"\xff")
    client.hset("recsys:{0}:a:u", "attributes", "[" * 9_999)
    client.zadd("recsys:{0}:h:seen:u", {b"one\x1fbuy\x1fi\x1f": T0, b"\xff": T0 + 1})
    assert dict(store.catalogue()).keys() == dict(store.catalogue(["a", "c"])).keys() == {"c"}
    user = store.user("u")
    assert user.cells and user.attributes is None and not user.histories
    assert store.history_version("u", "seen")
    assert len(store.damaged()) == 4


def test_a_foreign_key_of_the_store_itself_is_named_at_claim(own_server: RedisServer, client: Any) -> None:
    client.set("recsys:{0}:changed", "foreign")
    with pytest.raises(Unavailable, match=r"recsys:\{0\}:changed is a string, not a stream"):
        RedisFeatureStore(own_server.url, FEATURES, CONFIG).claim("events", 0, "log")


def _block(server: RedisServer) -> None:
    client = redis.Redis.from_url(server.url, socket_timeout=10)
    with closing(client), suppress(redis.ResponseError):  # killed
        client.eval("while true do end", 0)
