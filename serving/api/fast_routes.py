"""The hot routes' short way: found by path in a dictionary, ahead of FastAPI's router, exit stack and handlers.

They are FastAPI routes, too: for the OpenAPI document, and for methods other than POST (405). Their endpoints take the
request and return a response; msgspec decodes and encodes.
"""

from collections.abc import Iterable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from recsys.contracts.errors import RecsysError
from serving.problems import Problem, problem_of, problem_response


class FastRoutes:
    """ASGI middleware, the innermost."""

    def __init__(self, app: ASGIApp, routes: Iterable[APIRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        route = self._routes.get(scope["path"]) if is_post else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route  # metrics count by its path
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except (Problem, RecsysError) as error:
            response = problem_response(request, problem_of(error))
        await response(scope, receive, send)
