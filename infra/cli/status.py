"""The state of every part, as one JSON-ready object for `recsys status`."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from infra.cli.stores import feature_store
from infra.local.services import connected, running
from recsys.bundle import current_version
from recsys.contracts.errors import InvalidBundle, RecsysError, Unavailable
from recsys.contracts.types import Topic
from recsys.observability.logs import redact
from recsys.settings import Settings
from recsys.store.base import Checkpoint
from recsys.store.redis_client import connect, redis_errors
from recsys.store.redis_cluster import masters
from streaming.lake_writer.commit import Place, read_checkpoint, stopped_partitions
from streaming.log import KafkaSource

_TIMEOUT_S = 2.0
# (topic, partition) → what a reader has stored; None: nothing read yet
Progress = Callable[[str, int], Place | Checkpoint | None]


def gather(settings: Settings, api: str) -> dict[str, Any]:
    """Every part with `reachable`; for Kafka, each topic's records and the lag of its readers; for the database, where
    there is one, how many changes wait for a relay, and how much log its slot keeps."""
    found: dict[str, Any] = {
        "home": str(settings.home),
        "embedded": running(settings) is not None,
        "redis": {"reachable": False},
        "kafka": {"reachable": False},
        "api": _api(api),
        "bundle": _bundle(settings.bundles),
    }
    if settings.database_url:
        found["database"] = _database(settings)
    try:
        settings = connected(settings)
    except Unavailable as error:
        return found | {"error": str(error)}
    found["redis"] = _redis(settings.redis_url.get_secret_value())
    found["kafka"] = _kafka(settings, found["redis"]["reachable"])
    return found


def _bundle(bundles: Path) -> str | None:
    try:
        return current_version(bundles)
    except InvalidBundle as error:
        return str(error)


def _database(settings: Settings) -> dict[str, Any]:
    from recsys.catalogue_db.connection import safe, url_of
    from recsys.catalogue_db.database import CatalogueDatabase

    found: dict[str, Any] = {}
    try:
        found["url"] = safe(url_of(settings))
        with closing(CatalogueDatabase.of(settings)) as database:
            waiting, slot = database.outbox().backlog(), database.slot_state()
    except RecsysError as error:
        return {"reachable": False, **found, "error": str(error)}
    found |= {"waiting": waiting.rows, "oldest_s": round(waiting.oldest_s, 1)}
    return {"reachable": True, **found, **({"slot": asdict(slot)} if slot else {})}


def _redis(url: str) -> dict[str, Any]:
    try:
        with closing(connect(url, _TIMEOUT_S)) as client, redis_errors():
            started = time.perf_counter()
            client.ping()
            ping_ms = round((time.perf_counter() - started) * 1000, 2)
            servers = masters(client)
            found = {
                "ping_ms": ping_ms,
                "keys": sum(server.dbsize() for server in servers),
                "bytes": sum(server.info("memory")["used_memory"] for server in servers),
                "masters": len(servers),
            }
    except RecsysError as error:
        return {"reachable": False, "url": redact(url), "error": redact(str(error))}
    return {"reachable": True, "url": redact(url), **found}


def _kafka(settings: Settings, redis_reachable: bool) -> dict[str, Any]:
    address = settings.kafka_bootstrap
    try:
        source = KafkaSource(settings.kafka)
    except Unavailable as error:
        return {"reachable": False, "bootstrap": address, "error": str(error)}
    readers = {"archiver": _archiver(settings)}
    if redis_reachable:
        readers["worker"] = _worker(settings)
    found: dict[str, Any] = {"reachable": True, "bootstrap": address}
    with closing(source):
        try:
            topics = {str(topic): _topic(source, topic, readers) for topic in Topic}
            return found | {"topics": topics, "archiver_stopped": stopped_partitions(settings.lake)}
        except RecsysError as error:
            return found | {"error": str(error)}


def _topic(source: KafkaSource, topic: Topic, readers: Mapping[str, Progress]) -> dict[str, Any]:
    ends = [source.end_offset(topic, partition) for partition in range(source.partitions(topic))]
    found: dict[str, Any] = {"records": sum(ends), "end_offsets": ends}
    try:
        if held_back := source.open_transactions(topic):
            found["held_back"] = held_back
    except Unavailable as error:  # a broker or an account that may not be asked for them
        found["held_back"] = [str(error)]
    if topic is Topic.DEAD_LETTER:
        return found
    log_id = source.log_id(topic)
    for name, progress in readers.items():
        try:
            done = [progress(topic, partition) for partition in range(len(ends))]
        except RecsysError as error:  # such as a store of other feature definitions
            found[f"{name}_error"] = str(error)
            continue
        # offsets of a replaced log do not count
        lags = (
            end - d.offset if d and d.log_id == log_id else end for end, d in zip(ends, done, strict=True)
        )
        found[f"{name}_lag"] = sum(lags)
    return found


def _archiver(settings: Settings) -> Progress:
    checkpoint = read_checkpoint(settings.lake)
    return lambda topic, partition: checkpoint.get(f"{topic}/{partition}")


def _worker(settings: Settings) -> Progress:
    return feature_store(settings).checkpoint


def _api(url: str) -> dict[str, Any]:
    try:
        response = httpx.get(f"{url}/readyz", timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        return {"reachable": False, "url": url, "error": str(error) or type(error).__name__}
    found: dict[str, Any] = {"reachable": True, "url": url, "ready": response.status_code == 200}
    with suppress(ValueError, KeyError, TypeError):  # an API behind a key, or another server
        health = response.json()
        found["degraded"] = {name: health["checks"][name] for name in health["degraded"]}
    return found
