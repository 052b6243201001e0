"""The console's files, with the headers that two of them need."""

import os
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

WEB = Path(__file__).resolve().parents[1] / "web"  # as `StaticFiles` gives it, behind links, too
# A worker has the policy of its own script, not its document's: WebAssembly compiles in this one alone.
_WORKER = WEB / "edge" / "worker.js"
_WORKER_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; frame-ancestors 'none'; base-uri 'none'"
)
RUNTIME = WEB / "vendor" / "onnxruntime-web-1.30.0"  # its folder has its version: a file in it never changes


class ConsoleFiles(StaticFiles):
    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        path = Path(full_path)
        if path == _WORKER:
            response.headers["content-security-policy"] = _WORKER_POLICY
        if path.parent == RUNTIME:
            response.headers["cache-control"] = "public, max-age=31536000, immutable"
        return response
