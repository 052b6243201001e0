"""Health, for load balancers and people, and the metrics."""

import structlog
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse

from recsys.contracts.errors import Unavailable
from recsys.native import described
from recsys.observability.worker_report import read_report
from recsys.store.base import FeatureStore
from serving.api.dependencies import Feed, Files, Host, Keyed, Metrics, Settings, Spools, Store
from serving.api.schemas import Health
from serving.engine.item_feed import ItemFeed
from serving.ingest.outbox import Outboxes

_log = structlog.get_logger(__name__)
router = APIRouter(tags=["health"])

OK = "ok"
KAFKA_AWAY_S = 1.0  # deliveries failing for longer than this count as an outage


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process is alive. Says nothing about its dependencies: a restart would not heal Redis."""
    return {"status": OK}


@router.get(
    "/readyz", responses={503: {"model": Health, "description": "No bundle: nothing can be answered"}}
)
def ready(
    response: Response,
    host: Host,
    store: Store,
    outboxes: Spools,
    feed: Feed,
    settings: Settings,
    access: Keyed,
    files: Files,
) -> Health:
    """Whether requests can be answered, and what is missing. Only a missing bundle makes it 503: without Redis or
    Kafka answers are degraded, and taking every process out of service would leave none."""
    checks = {
        "keys": access.keys.error or OK,
        "bundle": OK if host.active else "none is loaded; run `recsys train all` and publish it",
        "store": _store(store),
        "kafka": _kafka(outboxes),
        "spool": outboxes.error or OK,
        "files": "; ".join(files().values()) or OK,
        "item_features": _item_features(feed, settings.stale_after_s),
        "stream": _stream(store),
    }
    if not host.active:
        response.status_code = 503
    runtime = host.runtime()
    degraded = [name for name, state in checks.items() if state != OK]
    return Health(
        ready=host.active is not None,
        bundle=host.active,
        degraded=degraded,
        checks=checks,
        request_path=described(settings.native),
        ranker=runtime.ranks_by if runtime else None,
        user_tower=runtime.artifacts.tower.runtime if runtime else None,
    )


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(telemetry: Metrics) -> Response:
    """Prometheus' text format."""
    return Response(telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)


def _store(store: FeatureStore) -> str:
    try:
        store.ping()
    except Unavailable as error:
        return str(error)
    except (
        Exception
    ) as error:  # a server that answers nonsense: say so; an error here would end every process
        _log.exception("the store cannot be asked")
        return f"{type(error).__name__}: {error}"
    damaged = store.damaged()
    if damaged:
        return f"{len(damaged)} damaged entities are skipped; the first is {damaged[0]}: delete it (docs/operations.md)"
    return OK


def _kafka(outboxes: Outboxes) -> str:
    failing_s = outboxes.failing_s
    if failing_s < KAFKA_AWAY_S:
        return OK
    waiting = f"{outboxes.backlog_bytes} bytes wait in the spool"
    return f"takes no records since {failing_s:.0f} s; {waiting}: {outboxes.failure}"


def _item_features(feed: ItemFeed, stale_after_s: float) -> str:
    if feed.error:
        return f"a bundle cannot take them over: {feed.error}; its log says where"
    return OK if feed.age_s <= stale_after_s else f"not refreshed for {feed.age_s:.0f} s"


def _stream(store: FeatureStore) -> str:
    """A worker reports from its loop, and a report lives for seconds: a loop that hangs has none."""
    try:
        reports = [report for content in store.reports().values() if (report := read_report(content))]
    except Unavailable:
        return OK  # the check of the store says it
    if not reports:
        return "no feature worker reports: events wait in Kafka; start `recsys stream worker`"
    return "; ".join(sorted({problem for report in reports for problem in report.problems})) or OK
