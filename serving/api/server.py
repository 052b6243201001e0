"""Running the app under uvicorn, in one process or in each of several."""

import asyncio
import contextlib
import math
import os
import resource
import signal
from collections.abc import Callable
from functools import partial

import pyarrow as pa
import uvicorn
from starlette.applications import Starlette

from recsys.contracts.errors import Unavailable
from recsys.observability.logs import configure_logs
from serving.api.connections import bounded
from serving.api.listeners import OpenListener
from serving.settings import ServingSettings
from serving.supervisor import Pulse

MakeApp = Callable[[ServingSettings], Starlette]
_GRACE_S = 10
_BEAT_S = 1.0
_OTHER_FILES = 256  # file descriptors besides connections: bundles, the spool, Redis, Kafka, libraries


def serve(
    settings: ServingSettings, make_app: MakeApp, open_listener: OpenListener, pulse: Pulse | None = None
) -> None:
    """Serve until SIGINT or SIGTERM. Requests in flight are answered, accepted records delivered or left in the spool.
    `pulse`: of the supervisor, with which this process ends.
    Raises `Unavailable`: the app cannot start."""
    most = min(settings.max_connections, max(16, _file_limit() - _OTHER_FILES))
    config = uvicorn.Config(
        partial(_app, settings, make_app, pulse),
        factory=True,
        http=bounded(settings, most),
        ws="none",  # there are none, and its protocol would have no limits
        log_config=None,
        log_level="error",  # a warning for each malformed request would let anybody fill the log
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing reads the client's address
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=math.ceil(settings.idle_s),
    )
    server = uvicorn.Server(config)
    with open_listener() as listener:
        server.run([listener])
    if not server.started:
        raise Unavailable("the API did not start; its log says why")


def _app(settings: ServingSettings, make_app: MakeApp, pulse: Pulse | None) -> Starlette:
    """The app of one process. uvicorn calls this in its event loop."""
    configure_logs(settings.log_level)
    # Arrow's own allocator does not return what reading a table took: 20 MiB that are never used again
    pa.set_memory_pool(pa.system_memory_pool())
    if pulse is not None:
        loop = asyncio.get_running_loop()
        loop.add_reader(pulse.orphaned, _leave, loop, pulse)
        loop.call_later(_BEAT_S, _beat, loop, pulse)
    return make_app(settings)


def _beat(loop: asyncio.AbstractEventLoop, pulse: Pulse) -> None:
    pulse.beat()
    loop.call_later(_BEAT_S, _beat, loop, pulse)


def _leave(loop: asyncio.AbstractEventLoop, pulse: Pulse) -> None:
    loop.remove_reader(pulse.orphaned)
    os.kill(os.getpid(), signal.SIGTERM)


def _file_limit() -> int:
    """The number of files that this process may open: as many as the system allows. Workers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has an unlimited hard limit that nobody gets
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft
