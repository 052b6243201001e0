"""Parts of the request path as processes of their own: `recsys serve --role recall` and `--role rank`.

    POST /parts/prepare   load a bundle, before somebody answers with it
    POST /parts/nearest   tower and index: a history → the nearest items
    POST /parts/rank      the ranker: features of candidates → all heads
    GET  /readyz          which bundle is loaded

Bodies are msgpack. There are no keys: listen on a Unix socket, or where only the API can connect. Whoever calls knows
the bundle; a process that does not have it (yet) answers 503 and loads it beside.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from recsys.bundle import Bundle, versions
from recsys.contracts.errors import RecsysError
from recsys.contracts.types import Device
from recsys.ranking.scorer import RankerSession
from serving.engine.golden import check_golden
from serving.engine.model_host import Loaded, ModelHost
from serving.remote.transport import MEDIA_TYPE, Array
from serving.settings import ServingSettings

PREPARE = "/parts/prepare"
_ASKED = 4  # versions that were asked for and are kept
_encode = msgspec.msgpack.Encoder().encode


class Prepare(msgspec.Struct, frozen=True, array_like=True):
    version: str


class RankCall(msgspec.Struct, frozen=True, array_like=True):
    """`inputs` are those of `recsys.ranking.scorer.INPUTS`."""

    version: str
    inputs: dict[str, Array]


class NearestCall(msgspec.Struct, frozen=True, array_like=True):
    """A user's encoded history, (1, L) int64 each, profile, (1, PROFILE_SLOTS) int64, and how many items are wanted."""

    version: str
    history: Array
    types: Array
    gaps: Array
    profile: Array
    n: int


class Nearest(msgspec.Struct, frozen=True, array_like=True):
    """(n,) int32 rows of the bundle's item table, the nearest first; -1 - i stands for `newer[i]`."""

    rows: Array
    newer: list[str]


@dataclass(frozen=True)
class RankPart:
    """What a ranking process has of a bundle."""

    bundle: Bundle
    session: RankerSession


def load_rank_part(bundle: Bundle, device: Device = Device.CPU) -> RankPart:
    """Raises: InvalidBundle, InvalidConfig."""
    check_golden(bundle)
    return RankPart(bundle, RankerSession(bundle.file("ranker.onnx"), device=device))


class Asked:
    """The versions that were asked for last, which are kept loaded: one in use is never pushed out by one that was only
    tried. Thread-safe: calls note, the thread that loads bundles reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, None] = {}  # the last one asked for at the end

    def note(self, version: str) -> None:
        with self._lock:
            self._latest.pop(version, None)
            self._latest[version] = None
            while len(self._latest) > _ASKED:
                del self._latest[next(iter(self._latest))]

    def versions(self) -> set[str]:
        with self._lock:
            return set(self._latest)


P = TypeVar("P", bound=Loaded)


class _App(Generic[P]):
    """One route for the work, the others for the operators."""

    def __init__(
        self, host: ModelHost[P], settings: ServingSettings, kind: type[Any], work: Callable[[P, Any], object]
    ) -> None:
        self._host = host
        self._settings = settings
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._work = work
        self._asked = Asked()
        self._cpu = ThreadPoolExecutor(settings.threads, "cpu")
        host.wanted.append(self._asked.versions)

    async def work(self, request: Request) -> Response:
        try:
            call = self._decode(await request.body())
        except msgspec.DecodeError as error:
            return PlainTextResponse(f"not a call of this version: {error}", 422)
        part = self._host.runtime(call.version)
        if part is None:
            self._ask_for(call.version)
            return PlainTextResponse(f"bundle {call.version!r} is not loaded", 503)
        self._asked.note(call.version)
        try:
            body = await asyncio.get_running_loop().run_in_executor(self._cpu, self._answer, part, call)
        except ValueError as error:
            return PlainTextResponse(str(error), 422)
        return Response(body, media_type=MEDIA_TYPE)

    async def prepare(self, request: Request) -> Response:
        try:
            version = msgspec.msgpack.decode(await request.body(), type=Prepare).version
            await asyncio.to_thread(self._host.load, version)
        except (msgspec.DecodeError, RecsysError) as error:
            return PlainTextResponse(str(error), 422)
        self._ask_for(version)
        return Response(_encode(True), media_type=MEDIA_TYPE)

    async def ready(self, _: Request) -> Response:
        return PlainTextResponse(self._host.active or "no bundle", 200 if self._host.active else 503)

    def _answer(self, part: P, call: Any) -> bytes:
        return _encode(self._work(part, call))

    def _ask_for(self, version: str) -> None:
        if version in versions(self._settings.bundles):
            self._asked.note(version)


def part_app(
    host: ModelHost[P],
    settings: ServingSettings,
    path: str,
    kind: type[Any],
    work: Callable[[P, Any], object],
    close: Callable[[], object],
) -> Starlette:
    """The application of one role."""
    part = _App(host, settings, kind, work)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        host.follow(settings.bundle_poll_s)
        try:
            yield
        finally:
            close()

    routes = [
        Route(path, part.work, methods=["POST"]),
        Route(PREPARE, part.prepare, methods=["POST"]),
        Route("/readyz", part.ready),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def rank(part: RankPart, call: RankCall) -> Mapping[str, Array]:
    inputs = {name: array.numpy() for name, array in call.inputs.items()}
    return {str(head): Array.of(values) for head, values in part.session.run(inputs).items()}
