"""Health, for load balancers and people, and the metrics."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse

from recsys.contracts.errors import Unavailable
from serving.api.schemas import Health
from serving.services import Services, services

router = APIRouter(tags=["health"])

OK = "ok"
KAFKA_AWAY_S = 1.0  # deliveries failing for longer than this count as an outage


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process lives. Says nothing of what it depends on: restarting it would not heal Redis."""
    return {"status": OK}


@router.get(
    "/readyz", responses={503: {"model": Health, "description": "No bundle: nothing can be answered"}}
)
def ready(request: Request, response: Response) -> Health:
    """Can requests be answered, and is everything there? Only a missing bundle makes it 503: without Redis or Kafka
    the answers are poorer (`degraded`), and taking every process out of service would leave none."""
    parts = services(request)
    checks = {
        "bundle": OK if parts.host.active else "none is loaded; run `recsys train all` and publish it",
        "store": _store(parts),
        "kafka": _kafka(parts),
        "item_features": _item_features(parts),
    }
    if not parts.host.active:
        response.status_code = 503
    return Health(
        ready=parts.host.active is not None,
        bundle=parts.host.active,
        degraded=[name for name, state in checks.items() if state != OK],
        checks=checks,
    )


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(services(request).telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)


def _store(parts: Services) -> str:
    try:
        parts.store.ping()
    except Unavailable as error:
        return str(error)
    return OK


def _kafka(parts: Services) -> str:
    failing_s = max(parts.events.failing_s, parts.impressions.failing_s)
    if failing_s < KAFKA_AWAY_S:
        return OK
    waiting = parts.events.backlog_bytes + parts.impressions.backlog_bytes
    return f"takes no records since {failing_s:.0f} s; {waiting} bytes are kept in the spool"


def _item_features(parts: Services) -> str:
    age_s, error = parts.feed.age_s, parts.feed.error
    if error:
        return f"a bundle cannot take them over: {error}; its log says where"
    return OK if age_s <= parts.settings.stale_after_s else f"not refreshed for {age_s:.0f} s"
