"""Running the app under uvicorn: one process, or several that share one listening socket."""

import contextlib
import math
import os
import resource
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from recsys.contracts.errors import Unavailable
from recsys.observability.logs import configure_logs
from serving.api.connections import bounded
from serving.settings import ServingSettings
from serving.telemetry import MULTIPROCESS_DIR

MakeApp = Callable[[ServingSettings], Starlette]
_BACKLOG = 2_048
_HEALTHY_S = 60  # a worker that hangs longer is replaced; importing on a busy machine takes seconds
_GRACE_S = 10
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OTHER_FILES = 256  # file descriptors besides connections: bundles, the spool, Redis, Kafka, libraries


def run(settings: ServingSettings, make_app: MakeApp, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Requests in flight are answered, accepted records delivered or left in the spool.
    `make_app`: a function of a module, so that worker processes can import it.
    `announce`: called with the URL once the socket listens.
    Raises `Unavailable`: the port is taken, or the app cannot start."""
    with _listen_unix(settings.uds) if settings.uds else _listen(settings.host, settings.port) as listener:
        where = listener.getsockname()
        announce(f"unix:{settings.uds}" if settings.uds else f"http://{settings.host}:{where[1]}")
        parent = os.getpid() if settings.workers > 1 else None
        most = min(settings.max_connections, max(16, _file_limit() - _OTHER_FILES))
        config = uvicorn.Config(
            partial(_app, settings, make_app, parent),
            factory=True,
            workers=settings.workers,
            http=bounded(settings, most),
            ws="none",  # there are none, and its protocol would have no limits
            log_config=None,
            log_level="error",  # a warning for each malformed request would let anybody fill the log
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing reads the client's address
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=math.ceil(settings.idle_s),
            timeout_worker_healthcheck=_HEALTHY_S,
        )
        if settings.workers > 1:
            _run_workers(config, listener)
            return
        server = uvicorn.Server(config)
        server.run([listener])
        if not server.started:
            raise Unavailable("the API did not start; its log says why")


def _app(settings: ServingSettings, make_app: MakeApp, parent: int | None) -> Starlette:
    """The app of one process. A worker exits when its parent is gone, however that ended."""
    configure_logs(settings.log_level)
    # Arrow's own allocator does not return what reading a table took: 20 MiB that are never used again
    pa.set_memory_pool(pa.system_memory_pool())
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent,), name="parent-watch", daemon=True).start()
    return make_app(settings)


def _file_limit() -> int:
    """The number of files that this process may open: as many as the system allows. Workers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has an unlimited hard limit that nobody gets
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _listen_unix(path: Path) -> socket.socket:
    """Only processes of the same user may connect."""
    listener = socket.socket(socket.AF_UNIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        path.unlink()  # of a process that is gone
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen on {path} ({error.strerror}); choose another --uds") from error
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    listener.listen(_BACKLOG)
    return listener


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        address = f"{host}:{port}"
        raise Unavailable(f"cannot listen on {address} ({error.strerror}); choose another --port") from error


def _run_workers(config: uvicorn.Config, listener: socket.socket) -> None:
    """Workers that die are replaced. They write their metrics to files in one folder, so each can show the sum."""
    folder = tempfile.mkdtemp(prefix="recsys-metrics-")
    os.environ[MULTIPROCESS_DIR] = folder
    for library in _ONE_THREAD:  # read when a worker imports it: requests share the cores
        os.environ.setdefault(library, "1")
    try:
        Multiprocess(config, sockets=[listener]).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
