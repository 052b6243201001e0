"""The HTTP application. `create_app(settings)` is what uvicorn runs; tests pass parts of their own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette_compress import CompressMiddleware

import recsys
from recsys.observability.exporters import open_traces
from recsys.observability.tracing import Traces
from serving import problems
from serving.api import openapi
from serving.api.fast_routes import HotRoute, HotRoutes
from serving.api.middleware import Edge
from serving.api.routes import (
    bundles,
    events,
    experiments,
    health,
    items,
    rank,
    recommendations,
    system,
    users,
)
from serving.api.schemas import Problem
from serving.assembly import assemble
from serving.services import Services, limited
from serving.settings import ServingSettings
from serving.telemetry import Telemetry

_COMPRESSED_FROM = 1_000  # bytes; below it the headers and the time cost more than the network does
WEB = Path(__file__).parents[1] / "web"
_DESCRIPTION = (
    "Recommendations from a two-tower recall, a ranker and a rerank stage, with features at most a second old."
    " Errors are RFC 9457 problem+json. With API keys on, send `X-API-Key` or `Authorization: Bearer`."
)


def create_app(
    settings: ServingSettings | None = None,
    make_services: Callable[[ServingSettings, Telemetry], Services] = assemble,
    traces: Traces | None = None,
) -> FastAPI:
    """The app. Servers are connected when it starts, and left when it stops, not before.

    Args:
        traces: instead of those that the settings name.
    """
    settings = settings or ServingSettings()
    traces = traces or open_traces(settings.traces, "recsys-api")
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = make_services(settings, telemetry)
        app.state.services = services
        try:
            yield
        finally:
            services.close()
            if traces is not None:
                traces.close()

    app = FastAPI(
        title="recsys",
        version=recsys.__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # both pages load scripts from a CDN
        redoc_url=None,
        responses={422: {"model": Problem}},
    )
    # hot routes: plain Starlette, two to three times the requests of a response_model (docs/serving.md)
    hot = [
        HotRoute("/v1/recommendations", recommendations.recommend, methods=["POST"]),
        HotRoute("/v1/recommendations/batch", recommendations.recommend_batch, methods=["POST"]),
        HotRoute("/v1/rank", rank.rank, methods=["POST"]),
        HotRoute("/v1/events", events.post_events, methods=["POST"]),
    ]
    app.router.routes += hot
    for module in (items, users, bundles, experiments, system):
        app.include_router(module.router, dependencies=[Depends(limited)])
    app.include_router(health.router)
    app.router.routes.append(HotRoute("/", _page, include_in_schema=False))
    app.mount("/static", StaticFiles(directory=WEB), name="static")
    openapi.install(app)
    problems.install(app)
    app.add_middleware(HotRoutes, routes=hot)  # what is added later is further outside
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_middleware(CompressMiddleware, minimum_size=_COMPRESSED_FROM, brotli=False)
    app.add_middleware(Edge, telemetry=telemetry, max_body_bytes=settings.max_body_bytes, traces=traces)
    return app


async def _page(_: object) -> FileResponse:
    return FileResponse(WEB / "index.html")
