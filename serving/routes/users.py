"""Users: what the platform holds of one, and forgetting it."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from recsys.features.definitions import ENGAGED_VISITS, SEEN_VISITS
from recsys.features.state import Visit
from recsys.forget import mark_forgotten, user_digest
from serving.audit import audit
from serving.runtime import Runtime
from serving.schemas import Id, UserSummary, VisitLine
from serving.security import Scope
from serving.services import allow, services

router = APIRouter(tags=["users"])

UserId = Annotated[Id, Path(description="the user's id")]


@router.get("/v1/users/{user_id}")
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
    )


@router.delete("/v1/users/{user_id}", status_code=204)
def forget(request: Request, user_id: UserId) -> Response:
    """Remove everything that the online store holds of a user, last night's document too, and mark the lake: `recsys
    stream compact` removes the rows. Doing it again is no error."""
    caller = allow(request, Scope.ADMIN)
    parts = services(request)
    # the id itself is to be forgotten
    audit(request, caller, "forget user", user_sha256=user_digest(user_id))
    parts.store.forget_user(user_id)
    mark_forgotten(parts.settings.lake, user_id, parts.now_ms())
    return Response(status_code=204)


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
