"""Attacks on Redis and on the files that people write: each state of a server, and what can lie in a file's place."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import redis

from infra.evaluation.fault_injection.hostile.attacks import Area, Attack, Broken
from infra.local.redis import RedisServer
from recsys.bundle import (
    FILES,
    OPTIONAL,
    Manifest,
    copy_bundle,
    open_bundle,
    publish,
    sign_bundle,
    write_bundle,
)
from recsys.contracts.errors import InvalidBundle, InvalidConfig, InvalidData, RecsysError, Unavailable
from recsys.contracts.events import Event
from recsys.contracts.types import EventType
from recsys.features.definitions import FEATURES
from recsys.rerank.rules import RuleBook
from recsys.signatures import new_key, read_private_key, read_public_keys
from recsys.store.base import Batch, StoreConfig
from recsys.store.redis import RedisFeatureStore
from serving.ingest.segment import Message, Segment, frame

_T0 = 1_700_000_000_000
_AREA: Area = "redis and disks"


@contextmanager
def _redis(folder: Path) -> Iterator[tuple[RedisServer, Any, RedisFeatureStore]]:
    """A server, its administrator, and a store of one partition."""
    with (
        RedisServer(folder / "redis") as server,
        closing(redis.Redis.from_url(server.url)) as admin,
        closing(_store(server.url)) as store,
    ):
        yield server, admin, store


def _store(url: str) -> RedisFeatureStore:
    return RedisFeatureStore(url, FEATURES, StoreConfig(partitions=1), timeout_s=1.0)


def _batch(epoch: int, offset: int, user: str = "u") -> Batch:
    event = Event(f"e{offset}", EventType.CLICK, user, "i", _T0)
    return Batch("events", 0, epoch, offset, offset + 1, _T0, [offset], [event])


def _refused(call: Callable[[], object], *kinds: type[RecsysError]) -> str:
    """The message of the refusal. Raises `Broken`: there was none."""
    try:
        call()
    except kinds as error:
        return str(error)
    raise Broken("it was accepted")


def bad_states(folder: Path) -> str:
    with _redis(folder) as (_, admin, store):
        epoch = store.claim("events", 0, "log").epoch
        states: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "OOM": (lambda: admin.config_set("maxmemory", "1mb"), lambda: admin.config_set("maxmemory", 0)),
            "NOREPLICAS": (
                lambda: admin.config_set("min-replicas-to-write", 1),
                lambda: admin.config_set("min-replicas-to-write", 0),
            ),
            "READONLY": (lambda: admin.replicaof("127.0.0.1", 1), lambda: admin.replicaof("NO", "ONE")),
        }
        for offset, (state, (begin, end)) in enumerate(states.items()):
            begin()
            said = _refused(lambda offset=offset: store.apply(_batch(epoch, offset)), Unavailable)  # type: ignore[misc]
            end()
            if state not in said:
                raise Broken(f"{state} is told as: {said}")
            if store.apply(_batch(epoch, offset)).applied != 1:
                raise Broken(f"an event that was refused under {state} was not counted later")
    return f"{', '.join(states)}: waited for, then each event counted once"


def evicting_server(folder: Path) -> str:
    with _redis(folder) as (_, admin, store):
        admin.config_set("maxmemory-policy", "allkeys-lru")
        return _refused(lambda: store.claim("events", 0, "log"), InvalidConfig)


def lost_offset(folder: Path) -> str:
    with _redis(folder) as (_, admin, store):
        store.apply(_batch(store.claim("events", 0, "log").epoch, 0))
        admin.delete("recsys:{0}:cp:events")
        return _refused(lambda: store.claim("events", 0, "log"), InvalidData)


def account_without_a_command(folder: Path) -> str:
    with _redis(folder) as (server, admin, _):
        rights = ["+@all", "-zadd"]
        admin.acl_setuser("worker", enabled=True, reset=True, nopass=True, keys="*", commands=rights)
        with closing(_store(server.url.replace("redis://", "redis://worker:x@"))) as store:
            return _refused(lambda: store.claim("events", 0, "log"), Unavailable)


def foreign_value(folder: Path) -> str:
    with _redis(folder) as (_, admin, store):
        epoch = store.claim("events", 0, "log").epoch
        admin.set("recsys:{0}:u:u", "of another program")
        applied = [store.apply(_batch(epoch, offset, user)).applied for offset, user in enumerate("uv")]
        if applied != [1, 1] or store.user("u").cells or not store.user("v").cells:
            raise Broken(f"applied {applied}")
        return f"skipped, the next user counted; named: {', '.join(store.damaged())}"


def foreign_spool(folder: Path) -> str:
    own = folder / "of another program"
    own.write_text("not ours")
    (folder / "1.outbox").symlink_to(own)
    os.mkfifo(folder / "2.outbox")
    (folder / "3.outbox").mkdir()
    (folder / "4.outbox").write_bytes(frame(Message("events", "u", b"{}")) + b"\xff" * 64)
    adopted = [found for path in sorted(folder.glob("*.outbox")) if (found := Segment.adopt(path))]
    records = [message for segment in adopted for message in segment.read(10)[0]]
    for segment in adopted:
        segment.close(delete=False)
    if len(records) != 1 or own.read_text() != "not ours":
        raise Broken(f"{len(records)} records, the foreign file has {own.read_text()!r}")
    return "the spool's one record is delivered, the foreign files are left alone"


def damaged_rules(folder: Path) -> str:
    """Each in the place of the file at a start."""
    path = folder / "rules.yaml"
    contents = {
        "Latin-1": "name: Müller".encode("latin-1"),
        "deep": b"- " * 2_000,
        "no date": b"rules: 2026-13-45",
    }
    places: dict[str, Callable[[], object]] = {
        **{name: lambda content=content: path.write_bytes(content) for name, content in contents.items()},  # type: ignore[misc]
        "a pipe": lambda: os.mkfifo(path),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a folder": path.mkdir,
    }
    for name, put in places.items():
        path.unlink(missing_ok=True)
        put()
        if not RuleBook(path).error:
            raise Broken(f"{name}: nothing is said")
    return f"{', '.join(places)}: started without rules, the reason is in /readyz"


def altered_bundles(folder: Path) -> str:
    bundles, key = folder / "bundles", folder / "key"
    (folder / "keys").write_text(new_key(key, "training"))
    keys = read_public_keys(folder / "keys")
    with write_bundle(bundles, Manifest("v1", 1, "f", ("a",), (1, 2), 0, {}, {})) as staging:
        for name in FILES.keys() - OPTIONAL:
            (staging / name).write_text(name)
    bundle = open_bundle(bundles / "v1")
    for way in (lambda: publish(bundles, "v1", keys), lambda: copy_bundle(bundle, folder / "other", keys)):
        _refused(way, InvalidBundle)
    sign_bundle(bundle, read_private_key(key))
    publish(bundles, "v1", keys)
    bundle.path.rename(bundles / "v2")
    _refused(lambda: open_bundle(bundles / "v2", keys), InvalidBundle)
    (bundles / "v2").rename(bundle.path)
    (bundle.path / "ranker.onnx").write_text("altered")
    _refused(lambda: open_bundle(bundle.path, keys), InvalidBundle)
    return "unsigned, renamed and altered ones are refused; the signed one is published"


ATTACKS = (
    Attack(_AREA, "Redis is full, without replicas, read-only", "NOREPLICAS ended the worker", bad_states),
    Attack(_AREA, "Redis may evict keys", "states and offsets vanish without a word", evicting_server),
    Attack(_AREA, "an offset is deleted while its states stay", "all is counted twice", lost_offset),
    Attack(
        _AREA,
        "the account may not run ZADD",
        "ids stored, cells not: the event is lost",
        account_without_a_command,
    ),
    Attack(_AREA, "another program writes to a user's key", "WRONGTYPE ends the worker", foreign_value),
    Attack(
        _AREA,
        "a link, a pipe, a folder and noise in the spool",
        "the link's target is emptied",
        foreign_spool,
    ),
    Attack(_AREA, "Latin-1, deep YAML, a pipe or a folder for the rules", "no start", damaged_rules),
    Attack(
        _AREA,
        "an unsigned, renamed or altered bundle",
        "no signatures; a renamed one reloads for ever",
        altered_bundles,
    ),
)
