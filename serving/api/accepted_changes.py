"""What the routes of items and of users share: a change is kept for the log, then written to the store, and a request
that is sent again has one effect."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import orjson
from fastapi import Header, Response

from recsys.contracts.changes import C
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import Topic
from recsys.observability.tracing import current_headers
from serving.api.idempotency import PATTERN, REPLAYED, once
from serving.ingest.outbox import Message
from serving.services import Services

IdempotencyKey = Annotated[
    str,
    Header(
        pattern=PATTERN,
        description="Made by the client for one request: sent again, it has one effect and gets the same answer",
    ),
]


def keep(
    parts: Services,
    topic: Topic,
    changes: Sequence[C],
    parse: Callable[[Any], C],
    apply: Callable[[Sequence[C]], None],
) -> None:
    """Keep the changes for the log, which brings them to the lake; and `apply` them to the store, if it is there.

    While it is away the feature worker does that later: a change that the store has already is no change. `parse` is
    what worker and archiver read the topic with: what they would refuse is refused here.

    Raises:
        InvalidEvent: one of them is refused; nothing is changed.
        Unavailable: they cannot be kept now; nothing is changed.
    """
    headers, raws = current_headers(), [change.to_dict() for change in changes]
    for raw in raws:
        parse(raw)
    parts.events.put(
        [Message(topic, c.key, orjson.dumps(raw), headers) for c, raw in zip(changes, raws, strict=True)]
    )
    with suppress(Unavailable):
        apply(changes)


def stored_once(
    parts: Services, caller: str, key: str, operation: str, body: bytes, store: Callable[[int], int]
) -> Response:
    """202 with how many `store(now_ms)` has stored; a request that comes again under its key stores nothing again."""

    def work(now_ms: int) -> bytes:
        return msgspec.json.encode({"stored": store(now_ms)})

    answer, replayed = once(parts.replays, caller, key, operation, body, parts.now_ms(), work)
    return Response(answer, 202, REPLAYED if replayed else None, "application/json")
