"""`POST /v1/events`: one event or a batch. 202 means accepted: in the spool on disk, on its way to Kafka."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import Event, item_context, parse_reported
from recsys.contracts.types import Topic
from recsys.observability.tracing import carried, current_headers
from serving.api.access import Access
from serving.api.body import JSON, decode_any
from serving.api.idempotency import PATTERN, Idempotency, event_ids, key_of
from serving.api.openapi import REQUEST_ID, answer, body, problems
from serving.api.wire import EventBatch, EventRequest, EventResult, EventResults
from serving.engine.model_host import ModelHost
from serving.engine.runtime import Runtime
from serving.ingest.item_tokens import ItemTokens, Judged
from serving.ingest.lateness import Lateness
from serving.ingest.outbox import Outbox
from serving.ingest.segment import Message
from serving.problems import Problem
from serving.settings import Scope
from serving.telemetry import Telemetry

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class EventIntake:
    """Checks events, completes them and puts them into the outbox. What waits for the disk runs in `io`."""

    access: Access
    outbox: Outbox
    idempotency: Idempotency
    lateness: Lateness
    tokens: ItemTokens
    host: ModelHost[Runtime]
    telemetry: Telemetry
    io: Executor
    max_batch: int

    async def accept(self, raws: list[Any], caller: str, key: str, content: bytes) -> EventResults:
        """What became of each event. Raises `Unavailable`: they cannot be spooled now; none was."""
        results = await asyncio.get_running_loop().run_in_executor(
            self.io, carried(self._accept), raws, caller, key, content
        )
        rejected = sum(result.status == "rejected" for result in results)
        self.telemetry.events.labels("accepted").inc(len(results) - rejected)
        self.telemetry.events.labels("rejected").inc(rejected)
        return EventResults(accepted=len(results) - rejected, rejected=rejected, results=results)

    def _accept(self, raws: list[Any], caller: str, key: str, content: bytes) -> list[EventResult]:
        """Ids and times that the server fills in are the same whenever the body comes again under its key."""
        now_ms = came_ms = self.idempotency.now_ms()
        watermarks: dict[int, int] = {}
        if any(isinstance(raw, dict) and raw.get("event_time_ms") is None for raw in raws):
            now_ms = self.idempotency.first_time_ms(caller, key, content, now_ms)
        make_id = event_ids(caller, key, content)
        results: list[EventResult] = []
        messages: list[Message] = []
        headers = current_headers()
        for place, raw in enumerate(raws):
            try:
                judged = self._judged(_completed(raw, make_id, place, now_ms), came_ms)
                event = judged.event
                self.lateness.check(event, came_ms, watermarks)
            except InvalidEvent as error:
                results.append(EventResult(status="rejected", event_id=_id_of(raw), reason=str(error)))
                continue
            content_of_log = orjson.dumps(self._described(event).to_dict())
            messages.append(Message(Topic.EVENTS, event.user_id, content_of_log, headers))
            results.append(EventResult(status="accepted", event_id=event.event_id, reason=judged.note))
            if judged.unproven:
                self.telemetry.unproven_events.labels(judged.unproven).inc()
        if messages:
            self.outbox.put(messages)
        return results

    def _judged(self, raw: Any, now_ms: int) -> Judged:
        """Raises `InvalidEvent`."""
        token = raw.pop("token", None) if isinstance(raw, dict) else None
        if token is not None and type(token) is not str:
            raise InvalidEvent(f"token: a string is required, got {token!r:.80}")
        return self.tokens.judge(parse_reported(raw), token, now_ms)

    def _described(self, event: Event) -> Event:
        """The event with what the catalogue knows of the item, where the client says nothing else."""
        runtime = self.host.runtime()
        row = runtime.catalogue.rows.get(event.item_id) if runtime else None
        if runtime is None or row is None:
            return event
        item = runtime.catalogue.item(row)
        known = item_context(event.context, item.categories, item.creator)
        return replace(event, context=known | dict(event.context))


def _completed(raw: Any, make_id: Callable[[int], str], place: int, now_ms: int) -> Any:
    """The event with what the client may leave out: its id and its time."""
    if not isinstance(raw, dict):
        return raw
    full = dict(raw)
    if full.get("event_id") is None:
        full["event_id"] = make_id(place)
    if full.get("event_time_ms") is None:
        full["event_time_ms"] = now_ms
    return full


router = APIRouter(tags=["events"])
_EVENT = {"type": "click", "user_id": "196", "item_id": "242", "request_id": REQUEST_ID}
_RESULTS = {"accepted": 1, "rejected": 0, "results": [{"status": "accepted", "event_id": "01970…"}]}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Made by the client for one request: sent again with the same body, it has one effect and gets the"
    " same answer, ids included.",
    "schema": {"type": "string", "pattern": PATTERN},
}


@router.post(
    "/v1/events",
    status_code=202,
    summary="Send one event or a batch",
    operation_id="postEvents",
    openapi_extra={
        "parameters": [_IDEMPOTENCY_KEY],
        **body(EventRequest, EventBatch, one=_EVENT, batch={"events": [_EVENT, {**_EVENT, "type": "like"}]}),
    },
    responses=answer(202, "What became of each event", EventResults, _RESULTS)
    | problems(400, 401, 403, 413, 429, 503),
)
async def post_events(request: Request) -> Response:
    """202 means accepted: the events reach the stream even when Kafka is away or this process dies. In a batch each
    event is judged on its own."""
    intake: EventIntake = request.app.state.events
    caller = await intake.access.caller(request, Scope.WRITE)
    key = key_of(request)
    content = await request.body()
    raw = decode_any(content)
    single = not (isinstance(raw, dict) and raw.keys() == {"events"})
    raws = [raw] if single else raw["events"]
    if not isinstance(raws, list):
        raise Problem(422, "events: a list of events is needed")
    await intake.access.count_records(caller, "events", len(raws), intake.max_batch)
    results = await intake.accept(raws, caller.name, key, content)
    if single and results.rejected:
        raise Problem(422, results.results[0].reason)
    return Response(_encode(results), 202, media_type=JSON)


def _id_of(raw: Any) -> str:
    event_id = raw.get("event_id") if isinstance(raw, dict) else None
    return event_id[:128] if isinstance(event_id, str) else ""
