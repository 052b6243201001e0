"""Users: their static attributes, what the platform holds of one, and forgetting it."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Request, Response

from recsys.contracts.changes import UserChange, parse_user_change
from recsys.contracts.state import Visit
from recsys.contracts.types import Topic, User
from recsys.features.definitions import ENGAGED_VISITS, SEEN_VISITS
from recsys.lake.forget import mark_forgotten, user_digest
from serving.api.accepted_changes import IdempotencyKey, keep, stored_once
from serving.api.audit import audit
from serving.api.schemas import Id, Stored, UserBody, UserEntries, UserEntry, UserSummary, VisitLine
from serving.engine.runtime import Runtime
from serving.problems import Problem
from serving.services import Services, allow, services
from serving.settings import Scope

router = APIRouter(tags=["users"])

UserId = Annotated[Id, Path(description="the user's id")]


@router.get("/v1/users/{user_id:path}")
def user(request: Request, user_id: UserId) -> UserSummary:
    """A user's recent history and how much state there is. An unknown user is not an error: `known` is false."""
    allow(request, Scope.READ)
    parts = services(request)
    state = parts.store.user(user_id)
    visits = state.histories.get(ENGAGED_VISITS.name, [])
    runtime = parts.host.runtime()
    return UserSummary(
        user_id=user_id,
        known=bool(state.cells or state.histories),
        history=[_line(runtime, visit) for visit in reversed(visits)],
        seen=len(state.histories.get(SEEN_VISITS.name, [])),
        cells=len(state.cells),
        attributes=None if state.attributes is None else dict(state.attributes),
    )


@router.put("/v1/users/{user_id:path}", status_code=202, response_model=Stored)
def put_user(
    request: Request, user_id: UserId, body: UserBody, idempotency_key: IdempotencyKey = ""
) -> Response:
    """Set a user's static attributes, all of them. The next request of that user sees those that some feature reads."""
    return _put(request, [User(user_id, body.attributes)], idempotency_key)


@router.post("/v1/users", status_code=202, response_model=Stored)
def put_users(
    request: Request, body: UserEntry | UserEntries, idempotency_key: IdempotencyKey = ""
) -> Response:
    """The same for one user or many."""
    entries = body.users if isinstance(body, UserEntries) else [body]
    return _put(request, [User(entry.user_id, entry.attributes) for entry in entries], idempotency_key)


@router.delete("/v1/users/{user_id:path}", status_code=204)
def forget(request: Request, user_id: UserId) -> Response:
    """Remove everything that the online store holds of a user, last night's document too, and mark the lake: `recsys
    stream compact` removes the rows. Doing it again is no error."""
    caller = allow(request, Scope.ADMIN)
    parts = services(request)
    # the id itself is to be forgotten
    audit(request, caller, "forget user", user_sha256=user_digest(user_id))
    _change(parts, [UserChange(user_id, None, parts.now_ms())])  # after what is still on its way to the store
    parts.store.forget_user(user_id)
    mark_forgotten(parts.settings.lake, user_id, parts.now_ms())
    return Response(status_code=204)


def _put(request: Request, users: list[User], key: str) -> Response:
    caller = allow(request, Scope.WRITE)
    parts = services(request)
    if len(users) > parts.settings.max_batch:
        raise Problem(413, f"users: at most {parts.settings.max_batch} in one request, got {len(users)}")

    def store(now_ms: int) -> int:
        _change(parts, [UserChange(user.user_id, user, now_ms) for user in users])
        return len(users)

    return stored_once(parts, caller.name, key, "put users", msgspec.json.encode(users), store)


def _change(parts: Services, changes: list[UserChange]) -> None:
    keep(parts, Topic.USERS, changes, parse_user_change, parts.store.change_users)


def _line(runtime: Runtime | None, visit: Visit) -> VisitLine:
    row = runtime.catalogue.rows.get(visit.item_id) if runtime else None
    title = runtime.catalogue.item(row).title if runtime and row is not None else ""
    return VisitLine(
        item_id=visit.item_id,
        title=title,
        categories=list(visit.categories),
        type=str(visit.type),
        event_time_ms=visit.event_time_ms,
    )
