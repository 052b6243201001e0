"""Changes of items and users: spooled for the log, written to the store, and applied once per Idempotency-Key."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import orjson
from fastapi import Header, Response

from recsys.contracts.changes import C
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import Topic
from recsys.observability.tracing import current_headers
from serving.api.body import JSON
from serving.api.idempotency import PATTERN, REPLAYED, Idempotency
from serving.ingest.outbox import Outbox
from serving.ingest.segment import Message

_ONCE = "Made by the client for one request: sent again, it has one effect and gets the same answer"
IdempotencyKey = Annotated[str, Header(pattern=PATTERN, description=_ONCE)]


class ChangeIntake:
    """Accepts changes, each request once."""

    def __init__(self, outbox: Outbox, idempotency: Idempotency) -> None:
        self._outbox = outbox
        self._idempotency = idempotency

    def accept(
        self,
        topic: Topic,
        changes: Sequence[C],
        parse: Callable[[Any], C],
        apply: Callable[[Sequence[C]], None],
    ) -> None:
        """Spool the changes for the log, which brings them to the lake, and `apply` them to the store if it is there.
        While it is away the feature worker does that later: applying a change twice has no effect. `parse` is what
        worker and archiver read the topic with: what they would refuse is refused here.
        Raises `InvalidEvent`: one of them is refused; nothing is changed.
        Raises `Unavailable`: they cannot be spooled; nothing is changed."""
        headers, raws = current_headers(), [change.to_dict() for change in changes]
        for raw in raws:
            parse(raw)
        self._outbox.put(
            [Message(topic, c.key, orjson.dumps(raw), headers) for c, raw in zip(changes, raws, strict=True)]
        )
        with suppress(Unavailable):
            apply(changes)

    def bury_user(self, user_id: str) -> None:
        """Spool a tombstone of the user, in the log after what is still on its way there.
        Raises `Unavailable`: it cannot be spooled."""
        self._outbox.put([Message(Topic.USERS, user_id, b"", current_headers())])

    def once(
        self, caller: str, key: str, action: str, body: bytes, work: Callable[[int], bytes], status: int = 202
    ) -> Response:
        """The answer of `work(now_ms)`; a request that comes again under its key repeats the answer, not the work."""
        answer, replayed = self._idempotency.once(caller, key, action, body, work)
        return Response(answer, status, REPLAYED if replayed else None, JSON if answer else None)

    def store_once(
        self, caller: str, key: str, operation: str, body: bytes, store: Callable[[int], int]
    ) -> Response:
        """202 with the number of entries that `store(now_ms)` has stored."""
        return self.once(caller, key, operation, body, lambda now_ms: b'{"stored":%d}' % store(now_ms))
