"""Changes of items and users: on their way to the log, written to the store, and applied once per Idempotency-Key."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Protocol

import orjson
from fastapi import Header, Response

from recsys.contracts.changes import C, ItemChange, UserChange, parse_item_change, parse_user_change
from recsys.contracts.errors import Unavailable
from recsys.contracts.merges import MAX_MERGED, UserMerge, parse_user_merge
from recsys.contracts.types import Topic
from recsys.observability.tracing import Headers, current_headers
from recsys.store.base import FeatureStore
from serving.api.body import JSON
from serving.api.idempotency import PATTERN, REPLAYED, Attempt, Idempotency
from serving.ingest.outbox import Outbox
from serving.ingest.segment import Message
from serving.problems import Problem

_ONCE = "Made by the client for one request: sent again, it has one effect and gets the same answer"
IdempotencyKey = Annotated[str, Header(pattern=PATTERN, description=_ONCE)]


class SourceOfTruth(Protocol):
    """Where changes are stored first, and from where they go to the log. Every method but `close` may raise
    `Unavailable`: nothing was stored."""

    def put_items(
        self, changes: Sequence[ItemChange], headers: Headers, repeated: bool
    ) -> Sequence[ItemChange]:
        """Returns what was stored; its times may be later. `repeated`: they may have been stored before, and what was
        changed since stays."""

    def put_users(
        self, changes: Sequence[UserChange], headers: Headers, repeated: bool
    ) -> Sequence[UserChange]: ...

    def forget_user(self, user_id: str, headers: Headers) -> None:
        """Delete the user, and send a tombstone after what is still on its way to the log."""

    def close(self) -> None: ...


class TopicsAlone:
    """Without a database: the topics are the source of truth, and the spool leads there. Their readers take the newest
    change, so one that is repeated has no effect."""

    def __init__(self, spool: Outbox) -> None:
        self._spool = spool

    def put_items(
        self, changes: Sequence[ItemChange], headers: Headers, repeated: bool
    ) -> Sequence[ItemChange]:
        return self._put(Topic.ITEMS, changes, headers)

    def put_users(
        self, changes: Sequence[UserChange], headers: Headers, repeated: bool
    ) -> Sequence[UserChange]:
        return self._put(Topic.USERS, changes, headers)

    def forget_user(self, user_id: str, headers: Headers) -> None:
        self._spool.put([Message(Topic.USERS, user_id, b"", headers)])

    def close(self) -> None:
        """The spool is closed by its owner."""

    def _put(self, topic: Topic, changes: Sequence[C], headers: Headers) -> Sequence[C]:
        self._spool.put([Message(topic, c.key, orjson.dumps(c.to_dict()), headers) for c in changes])
        return changes


class ChangeIntake:
    """Accepts changes, each request once."""

    def __init__(
        self, truth: SourceOfTruth, spool: Outbox, store: FeatureStore, idempotency: Idempotency
    ) -> None:
        """`spool`: to the log, for merges, which no database has."""
        self._truth = truth
        self._spool = spool
        self._store = store
        self._idempotency = idempotency

    def accept_items(self, changes: Sequence[ItemChange], repeated: bool) -> None:
        """Store the changes where they go to the log from, which brings them to the lake, and apply them to the store
        if it is there. While it is away the feature worker does that later: applying a change twice has no effect.
        Raises `InvalidEvent`: one of them is refused; nothing is changed.
        Raises `Unavailable`: they cannot be stored; nothing is changed."""
        _check(changes, parse_item_change)
        stored = self._truth.put_items(changes, current_headers(), repeated)
        with suppress(Unavailable):
            self._store.change_items(stored)

    def accept_users(self, changes: Sequence[UserChange], repeated: bool) -> None:
        """The same for users' attributes."""
        _check(changes, parse_user_change)
        stored = self._truth.put_users(changes, current_headers(), repeated)
        with suppress(Unavailable):
            self._store.change_users(stored)

    def accept_merge(self, merge: UserMerge) -> None:
        """The same for a merge; one that is known is not sent again, but lives longer in the store.
        Raises `Problem`: 409, it would have no effect."""
        parse_user_merge(merge.to_dict())
        is_known = False
        with suppress(Unavailable):  # then nobody knows whether it has an effect
            is_known = self._is_known(merge)
        if not is_known:
            content = orjson.dumps(merge.to_dict())
            self._spool.put([Message(Topic.USERS, merge.key, content, current_headers())])
        with suppress(Unavailable):
            self._store.merge_users([merge])

    def _is_known(self, merge: UserMerge) -> bool:
        if self._store.links(merge.user_id).owner not in (None, merge.into):
            raise Problem(
                409,
                f"{merge.user_id!r} belongs to another user already, and stays with the first one; give a device a new "
                "id when somebody logs out",
            )
        known = [merged for _, merged in self._store.links(merge.into).merged]
        if merge.user_id not in known and len(known) >= MAX_MERGED:
            raise Problem(
                409, f"{merge.into!r} has {MAX_MERGED} merged ids already; further ones would not count"
            )
        return merge.user_id in known

    def forget_user(self, user_id: str) -> None:
        """Raises `Unavailable`: nothing is changed."""
        self._truth.forget_user(user_id, current_headers())

    def forget_merge(self, key: str) -> None:
        """Raises as `forget_user` does."""
        self._spool.put([Message(Topic.USERS, key, b"", current_headers())])

    def once(
        self,
        caller: str,
        key: str,
        action: str,
        body: bytes,
        work: Callable[[Attempt], bytes],
        status: int = 202,
    ) -> Response:
        """The answer of `work`; a request that comes again under its key repeats the answer, not the work."""
        answer, replayed = self._idempotency.once(caller, key, action, body, work)
        return Response(answer, status, REPLAYED if replayed else None, JSON if answer else None)

    def store_once(
        self, caller: str, key: str, operation: str, body: bytes, store: Callable[[Attempt], int]
    ) -> Response:
        """202 with the number of entries that `store` has accepted."""
        return self.once(caller, key, operation, body, lambda attempt: b'{"stored":%d}' % store(attempt))


def _check(changes: Sequence[C], parse: Callable[[Any], C]) -> None:
    """`parse` is what worker and archiver read the topic with: what they would refuse is refused here."""
    for change in changes:
        parse(change.to_dict())
