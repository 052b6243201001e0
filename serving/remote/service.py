"""Recall and ranking as services of their own: `recsys serve --role recall` and `--role rank`.

    POST /rpc/prepare   load a bundle, before the API answers with it
    POST /rpc/nearest   user tower and index: a history → the nearest items
    POST /rpc/rank      the ranker: features of candidates → all heads
    GET  /readyz        which bundle is active

Bodies are msgpack (`serving.remote.messages`). There are no keys: listen on a Unix socket, or where only the API can
connect. Each call names its bundle; a service that has not loaded it yet answers 503 and loads it in the background.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from recsys.bundle import Bundle, versions
from recsys.contracts.errors import RecsysError
from recsys.contracts.types import Device
from recsys.ranking.compiled import open_ranker
from serving.engine.golden import check_ranker
from serving.engine.model_host import Loaded, ModelHost
from serving.remote.messages import PREPARE, Array, Prepare, RankCall
from serving.remote.transport import MEDIA_TYPE
from serving.settings import ServingSettings

_REQUESTED = 4  # versions that stay loaded
_encode = msgspec.msgpack.Encoder().encode


class RankService:
    def __init__(self, bundle: Bundle, device: Device = Device.CPU, native: bool = False) -> None:
        """Raises `InvalidBundle` or `InvalidConfig`."""
        self.bundle = bundle
        self._ranker = open_ranker(bundle.path, native, device)
        check_ranker(bundle, self._ranker)

    def rank(self, call: RankCall) -> Mapping[str, Array]:
        inputs = {name: array.numpy() for name, array in call.inputs.items()}
        return {str(head): Array.of(values) for head, values in self._ranker.run(inputs).items()}


class RequestedVersions:
    """The bundle versions requested last, which stay loaded: a version that was only tried does not evict one in use.
    Thread-safe: calls note, the thread that loads bundles reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, None] = {}  # the latest at the end

    def note(self, version: str) -> None:
        with self._lock:
            self._latest.pop(version, None)
            self._latest[version] = None
            while len(self._latest) > _REQUESTED:
                del self._latest[next(iter(self._latest))]

    def versions(self) -> set[str]:
        with self._lock:
            return set(self._latest)


S = TypeVar("S", bound=Loaded)


def service_app(
    host: ModelHost[S],
    settings: ServingSettings,
    path: str,
    call_type: type[Any],
    work: Callable[[S, Any], object],
    close: Callable[[], object],
) -> Starlette:
    """The application of one role: one route for the work, the others for operation."""
    decode = msgspec.msgpack.Decoder(call_type).decode
    requested = RequestedVersions()
    host.wanted.append(requested.versions)
    cpu = ThreadPoolExecutor(settings.threads, "cpu")

    async def work_route(request: Request) -> Response:
        try:
            call = decode(await request.body())
        except msgspec.DecodeError as error:
            return PlainTextResponse(f"not a call of this protocol version: {error}", 422)
        service = host.runtime(call.version)
        if service is None:
            note(call.version)
            return PlainTextResponse(f"bundle {call.version!r} is not loaded", 503)
        requested.note(call.version)
        try:
            body = await asyncio.get_running_loop().run_in_executor(cpu, lambda: _encode(work(service, call)))
        except ValueError as error:
            return PlainTextResponse(str(error), 422)
        return Response(body, media_type=MEDIA_TYPE)

    async def prepare(request: Request) -> Response:
        try:
            version = msgspec.msgpack.decode(await request.body(), type=Prepare).version
            await asyncio.to_thread(host.load, version)
        except (msgspec.DecodeError, RecsysError) as error:
            return PlainTextResponse(str(error), 422)
        note(version)
        return Response(_encode(True), media_type=MEDIA_TYPE)

    async def ready(_: Request) -> Response:
        return PlainTextResponse(host.active or "no bundle", 200 if host.active else 503)

    def note(version: str) -> None:
        if version in versions(settings.bundles):
            requested.note(version)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        host.follow(settings.bundle_poll_s)
        try:
            yield
        finally:
            close()

    routes = [
        Route(path, work_route, methods=["POST"]),
        Route(PREPARE, prepare, methods=["POST"]),
        Route("/readyz", ready),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.router.redirect_slashes = False  # its redirects go where the `Host` header says
    return app
