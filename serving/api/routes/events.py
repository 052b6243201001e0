"""`POST /v1/events`: one event or a batch. 202 means kept: in the spool on disk, on its way to Kafka."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import item_context, parse_event
from recsys.contracts.types import Topic
from recsys.observability.tracing import carried, current_headers
from serving.api.body import decode_any
from serving.api.idempotency import event_ids, first_time_ms, key_of
from serving.api.wire import EventResult, EventResults
from serving.ingest.outbox import Message
from serving.problems import Problem
from serving.services import Services, allow, services
from serving.settings import Scope

_encode = msgspec.json.Encoder().encode


async def post_events(request: Request) -> Response:
    parts = services(request)
    caller = allow(request, Scope.WRITE)
    key = key_of(request)
    content = await request.body()
    body = decode_any(content)
    single = not (isinstance(body, dict) and body.keys() == {"events"})
    raws = [body] if single else body["events"]
    if not isinstance(raws, list):
        raise Problem(422, "events: a list of events is needed")
    if len(raws) > parts.settings.max_batch:
        raise Problem(413, f"events: at most {parts.settings.max_batch} in one request, got {len(raws)}")
    await parts.limit(caller, max(1, len(raws)))
    results = await asyncio.get_running_loop().run_in_executor(
        parts.io, carried(_accept_once), parts, raws, caller.name, key, content
    )
    rejected = sum(result.status == "rejected" for result in results)
    parts.telemetry.events.labels("accepted").inc(len(results) - rejected)
    parts.telemetry.events.labels("rejected").inc(rejected)
    if single and rejected:
        raise Problem(422, results[0].reason)
    answer = EventResults(accepted=len(results) - rejected, rejected=rejected, results=results)
    return Response(_encode(answer), 202, media_type="application/json")


def _accept_once(parts: Services, raws: list[Any], caller: str, key: str, body: bytes) -> list[EventResult]:
    """What the server gives to events that come without id or time, the same whenever the body comes under this key."""
    now_ms = parts.now_ms()
    if any(isinstance(raw, dict) and raw.get("event_time_ms") is None for raw in raws):
        now_ms = first_time_ms(parts.replays, caller, key, body, now_ms)
    return accept(parts, raws, event_ids(caller, key, body), now_ms)


def accept(parts: Services, raws: list[Any], make_id: Callable[[int], str], now_ms: int) -> list[EventResult]:
    """Check every event, keep the good ones together, say what became of each. `now_ms`: of those without a time.

    Raises:
        Unavailable: they cannot be kept now; none was.
    """
    results: list[EventResult] = []
    messages: list[Message] = []
    headers = current_headers()
    for place, raw in enumerate(raws):
        try:
            event = parse_event(_completed(parts, raw, make_id(place), now_ms))
        except InvalidEvent as error:
            results.append(EventResult(status="rejected", event_id=_id_of(raw), reason=str(error)))
            continue
        messages.append(Message(Topic.EVENTS, event.user_id, orjson.dumps(event.to_dict()), headers))
        results.append(EventResult(status="accepted", event_id=event.event_id))
    if messages:
        parts.events.put(messages)
    return results


def _completed(parts: Services, raw: Any, event_id: str, now_ms: int) -> Any:
    """The event with what the client may leave out: its id, its time, and what the catalogue knows of the item."""
    if not isinstance(raw, dict):
        return raw
    full = dict(raw)
    if full.get("event_id") is None:
        full["event_id"] = event_id
    if full.get("event_time_ms") is None:
        full["event_time_ms"] = now_ms
    runtime, item_id, context = parts.host.runtime(), full.get("item_id"), full.get("context")
    if runtime is None or not isinstance(item_id, str) or not isinstance(context, dict | None):
        return full
    row = runtime.catalogue.rows.get(item_id)
    if row is None:
        return full
    item, context = runtime.catalogue.item(row), context or {}
    full["context"] = item_context(context, item.categories, item.creator) | context
    return full


def _id_of(raw: Any) -> str:
    event_id = raw.get("event_id") if isinstance(raw, dict) else None
    return event_id[:128] if isinstance(event_id, str) else ""
