"""The HTTP application: routes, middleware and the console. `serving.assembly` makes what the routes work with."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse
from starlette_compress import CompressMiddleware

import recsys
from recsys.observability.exporters import open_traces
from recsys.observability.tracing import Traces
from serving import problems
from serving.api import openapi
from serving.api.console_files import WEB, ConsoleFiles
from serving.api.fast_routes import FastRoutes
from serving.api.guard import Guard
from serving.api.middleware import Edge
from serving.api.routes import (
    bundles,
    edge,
    events,
    experiments,
    health,
    items,
    rank,
    recommendations,
    release,
    system,
    users,
)
from serving.settings import ServingSettings
from serving.telemetry import Telemetry

_COMPRESSED_FROM = 1_000  # bytes; below it the headers and the time cost more than the network does
_DESCRIPTION = (
    "Recommendations from a two-tower recall, a ranker and a rerank stage, with features at most a second old."
    " Errors are RFC 9457 problem+json. With API keys on, send `X-API-Key` or `Authorization: Bearer`."
)


class Services(Protocol):
    """Its attributes become those of `app.state`, where each route finds what it declares."""

    def close(self) -> object: ...


Assemble = Callable[[ServingSettings, Telemetry], Services]


def create_app(settings: ServingSettings, assemble: Assemble, traces: Traces | None = None) -> FastAPI:
    """The app. It connects to servers when it starts, not before, and disconnects when it stops.
    `traces`: instead of those that the settings name."""
    traces = traces or open_traces(settings.traces, "recsys-api")
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = assemble(settings, telemetry)
        for name, service in vars(services).items():
            setattr(app.state, name, service)
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
        redirect_slashes=False,  # its redirects go where the `Host` header says
        responses=openapi.EVERYWHERE,
    )
    fast = (recommendations, rank, events)
    for module in (*fast, items, users, bundles, edge, experiments, release, system, health):
        app.include_router(module.router)
    app.add_api_route("/", _console, include_in_schema=False)
    app.mount("/static", ConsoleFiles(directory=WEB), name="static")
    openapi.install(app)
    problems.install(app)
    # what is added later is further outside
    routes = [route for module in fast for route in module.router.routes if isinstance(route, APIRoute)]
    app.add_middleware(FastRoutes, routes=routes)
    if origins := list(settings.cors_origins):
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    if settings.guarded:
        app.add_middleware(Guard, guarded=settings.guarded)
    if hosts := list(settings.allowed_hosts):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_middleware(CompressMiddleware, minimum_size=_COMPRESSED_FROM, brotli=False)
    app.add_middleware(Edge, telemetry=telemetry, max_body_bytes=settings.max_body_bytes, traces=traces)
    return app


async def _console() -> FileResponse:
    return FileResponse(WEB / "index.html")
