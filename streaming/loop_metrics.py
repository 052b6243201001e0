"""The port of a process with a loop: /metrics for Prometheus, /healthz for a probe."""

import time
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

STUCK_S = 60.0  # a step takes a second; the calls of one that waits for a server take up to some ten


class LoopMetrics:
    """A registry of its own: one process may have several loops."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._began = self._stepped = time.monotonic()

    def stepped(self) -> None:
        """The loop has begun a step, or waits for a server and knows it."""
        self._stepped = time.monotonic()

    def serve(self, port: int) -> None:
        """Answer /metrics, and /healthz with 503 once the loop has not made a step for `STUCK_S`."""
        metrics = make_wsgi_app(self.registry)

        def answer(environ: Any, start: Any) -> Any:
            if environ["PATH_INFO"] != "/healthz":
                return metrics(environ, start)
            idle_s = time.monotonic() - self._stepped
            start(
                "200 OK" if idle_s < STUCK_S else "503 Service Unavailable", [("Content-Type", "text/plain")]
            )
            return [f"last step {idle_s:.1f} s ago\n".encode()]

        server, _ = start_http_server(port, registry=self.registry)
        server.set_app(answer)
