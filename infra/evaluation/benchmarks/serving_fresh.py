"""Time from a click to a changed list, under 2 000 other events per second.

A probe is a new user: it asks for a list, clicks the first item through the API, and polls until that item is gone
(a clicked item is not shown again). The time runs from before the click is sent to the changed answer.
"""

import asyncio
import http.client
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from infra.evaluation.load.traffic import drive, kafka_target, traffic_events
from recsys.contracts.types import Item
from recsys.kafka_connection import KafkaConnection
from streaming.log import KafkaSink

_POLL_S = 0.002
_GIVE_UP_S = 5.0
_WARM_UP_S = 1.0
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Freshness:
    """`events_per_s` straight to Kafka; a probe every `every_s` for `seconds`."""

    port: int
    kafka: KafkaConnection
    events_per_s: float = 2_000.0
    seconds: float = 12.0
    every_s: float = 0.1
    seed: int = 0


def measure(config: Freshness, items: Sequence[Item]) -> list[float]:
    """Milliseconds of each probe; `_GIVE_UP_S` where the list did not change by then."""
    traffic = multiprocessing.get_context("spawn").Process(target=_traffic, args=(config, items), daemon=True)
    traffic.start()
    time.sleep(_WARM_UP_S)
    found: list[float] = []
    connection = http.client.HTTPConnection("127.0.0.1", config.port, timeout=30)
    ends = time.monotonic() + config.seconds
    while (began := time.monotonic()) < ends:
        found.append(_probe(connection, f"probe-{config.seed}-{len(found)}"))
        time.sleep(max(0.0, began + config.every_s - time.monotonic()))
    connection.close()
    traffic.join()
    return found


def _probe(connection: http.client.HTTPConnection, user: str) -> float:
    while not (before := _list(connection, user)):  # refused: the API is busy
        time.sleep(_POLL_S)
    first = before[0]
    began = time.monotonic()
    _post(connection, "/v1/events", {"type": "click", "user_id": user, "item_id": first})
    while (waited := time.monotonic() - began) < _GIVE_UP_S:
        shown = _list(connection, user)
        if shown and first not in shown:
            return (time.monotonic() - began) * 1e3
        time.sleep(_POLL_S)
    return waited * 1e3


def _list(connection: http.client.HTTPConnection, user: str) -> list[str]:
    """Item ids; empty when the request was refused, since there is always something to show."""
    answer = _post(connection, "/v1/recommendations", {"user_id": user})
    return [item["item_id"] for item in answer.get("items", ())]


def _post(connection: http.client.HTTPConnection, path: str, content: object) -> dict[str, Any]:
    connection.request("POST", path, msgspec.json.encode(content), _JSON)
    answer: dict[str, Any] = msgspec.json.decode(connection.getresponse().read())
    return answer


def _traffic(config: Freshness, items: Sequence[Item]) -> None:
    sink = KafkaSink(config.kafka)
    events = traffic_events(items, users=100_000, skew=1.0, seed=config.seed + 1)
    count = int(config.events_per_s * (config.seconds + _WARM_UP_S))
    asyncio.run(drive(kafka_target(sink), events, config.events_per_s, count))
    sink.flush(60.0)
    sink.close()
