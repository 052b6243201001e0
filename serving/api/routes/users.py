"""Users: their static attributes, merging an id into a user, what the platform holds of one, and forgetting it."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path, Request, Response

from recsys.contracts.changes import UserChange
from recsys.contracts.languages import Title, title_in
from recsys.contracts.merges import UserMerge, linked_members
from recsys.contracts.state import Visit
from recsys.contracts.types import User
from recsys.features.definitions import DISLIKED_VISITS, ENGAGED_VISITS, SEEN_VISITS
from recsys.lake.forget import user_digest
from recsys.store.forgetting import forget as forget_user
from serving.api.accepted_changes import IdempotencyKey
from serving.api.audit import audit
from serving.api.dependencies import (
    READ,
    Admin,
    Changes,
    Clock,
    Host,
    Keyed,
    Settings,
    Store,
    UncountedWriter,
    Writer,
)
from serving.api.idempotency import Attempt
from serving.api.languages import SpokenHere
from serving.api.schemas import (
    Id,
    MergeBody,
    Stored,
    UserBody,
    UserEntries,
    UserEntry,
    UserSummary,
    VisitLine,
)
from serving.api.security import Caller
from serving.engine.runtime import Runtime

router = APIRouter(tags=["users"])

UserId = Annotated[Id, Path(description="the user's id")]


class Put:
    """Stores users' attributes, each request once."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def __call__(self, caller: Caller, users: list[User], key: str) -> Response:
        def put(attempt: Attempt) -> int:
            now_ms, repeated = attempt
            self._changes.accept_users([UserChange(user.user_id, user, now_ms) for user in users], repeated)
            return len(users)

        return self._changes.store_once(caller.name, key, "put users", msgspec.json.encode(users), put)


@router.get("/v1/users/{user_id:path}", dependencies=[READ])
def user(store: Store, host: Host, spoken: SpokenHere, user_id: UserId) -> UserSummary:
    """A user's recent history and how much state there is. An unknown user is not an error: `known` is false."""
    state = store.user(user_id)
    visits = state.histories.get(ENGAGED_VISITS.name, [])
    runtime, title = host.runtime(), title_in(spoken.languages)
    return UserSummary(
        user_id=user_id,
        known=bool(state.cells or state.histories),
        history=[_line(runtime, visit, title) for visit in reversed(visits)],
        seen=sum(len(state.histories.get(history.name, [])) for history in (SEEN_VISITS, DISLIKED_VISITS)),
        cells=len(state.cells),
        attributes=None if state.attributes is None else dict(state.attributes),
        merged=linked_members(user_id, store.links)[1:],
    )


@router.put("/v1/users/{user_id:path}", status_code=202, response_model=Stored)
def put_user(
    put: Annotated[Put, Depends()],
    caller: Writer,
    user_id: UserId,
    body: UserBody,
    idempotency_key: IdempotencyKey = "",
) -> Response:
    """Set a user's static attributes, all of them. The next request of that user sees those that some feature reads."""
    return put(caller, [User(user_id, body.attributes)], idempotency_key)


async def _sent(
    caller: UncountedWriter, access: Keyed, settings: Settings, body: UserEntry | UserEntries
) -> tuple[Caller, list[User]]:
    entries = body.users if isinstance(body, UserEntries) else [body]
    await access.count_records(caller, "users", len(entries), settings.max_batch)
    return caller, [User(entry.user_id, entry.attributes) for entry in entries]


@router.post("/v1/users", status_code=202, response_model=Stored)
def put_users(
    put: Annotated[Put, Depends()],
    sent: Annotated[tuple[Caller, list[User]], Depends(_sent)],
    idempotency_key: IdempotencyKey = "",
) -> Response:
    """The same for one user or many. Each user counts against the key's rate."""
    return put(*sent, idempotency_key)


@router.post("/v1/users/{user_id:path}/merge", status_code=202, response_model=Stored)
def merge_user(
    changes: Changes, caller: Writer, user_id: UserId, body: MergeBody, idempotency_key: IdempotencyKey = ""
) -> Response:
    """Let the history of another id belong to the user, as of now: what it did and what arrives of it later. The user's
    next request sees it. An id belongs to the first user that it was merged into: 409 for another."""

    def merge(attempt: Attempt) -> int:
        changes.accept_merge(UserMerge(body.merged, user_id, attempt.now_ms))
        return 1

    pair = msgspec.json.encode([body.merged, user_id])
    return changes.store_once(caller.name, idempotency_key, "merge users", pair, merge)


@router.delete("/v1/users/{user_id:path}", status_code=204)
def forget(
    request: Request,
    caller: Admin,
    changes: Changes,
    store: Store,
    settings: Settings,
    now_ms: Clock,
    user_id: UserId,
) -> Response:
    """Remove everything that the online store holds of a user and of the ids merged into it, last night's document too,
    and mark the lake: `recsys stream compact` removes the rows. Doing it again is no error."""
    # the id itself is to be forgotten
    audit(request, caller, "forget user", user_sha256=user_digest(user_id))
    bury = changes.forget_user, changes.forget_merge
    forget_user(store, settings.lake, *bury, user_id, now_ms(), settings.time_rules)
    return Response(status_code=204)


def _line(runtime: Runtime | None, visit: Visit, title: Title) -> VisitLine:
    row = runtime.catalogue.rows.get(visit.item_id) if runtime else None
    return VisitLine(
        item_id=visit.item_id,
        title=title(runtime.catalogue.item(row)) if runtime and row is not None else "",
        categories=list(visit.categories),
        type=str(visit.type),
        event_time_ms=visit.event_time_ms,
    )
