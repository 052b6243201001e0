"""What can be put behind a key though it needs none by default: `RECSYS_GUARDED`."""

from collections.abc import Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from serving.api.access import Access
from serving.settings import Guarded, Scope


class Guard:
    """ASGI middleware. A key of the scope read opens; it does not count against the key's rate. Browsers may send it as
    the password of HTTP Basic, for the console's pages only."""

    def __init__(self, app: ASGIApp, guarded: Collection[Guarded]) -> None:
        self._app = app
        self._guarded = frozenset(guarded)

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Raises `Problem`: 401, 403 or 429; `serving.api.middleware` answers it."""
        if scope["type"] == "http" and (part := _part_of(scope["path"])) in self._guarded:
            access: Access = scope["app"].state.access
            await access.caller(Request(scope), Scope.READ, basic=part is Guarded.CONSOLE)
        await self._app(scope, receive, send)


def _part_of(path: str) -> Guarded | None:
    match path:
        case "/metrics":
            return Guarded.METRICS
        case "/readyz":
            return Guarded.READYZ
        case "/" | "/openapi.json":
            return Guarded.CONSOLE
    return Guarded.CONSOLE if path.startswith("/static") else None
