"""The hot routes' short way: found by path in a dictionary, before FastAPI's router, its exit stack and its handlers.

They stay in the router, too, for what is not a POST (405), and the OpenAPI document has them.
"""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from recsys.contracts.errors import RecsysError
from serving.problems import Problem, problem_of, problem_response


class HotRoute(Route):
    """A plain Starlette route that names itself in the scope, as FastAPI's do: metrics count by its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        if match is not Match.NONE:
            child_scope["route"] = self
        return match, child_scope


class HotRoutes:
    """ASGI middleware, the innermost. Every route's endpoint takes a request and gives a response."""

    def __init__(self, app: ASGIApp, routes: Sequence[HotRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        route = self._routes.get(scope["path"]) if is_post else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except (Problem, RecsysError) as error:
            response = problem_response(request, problem_of(error))
        await response(scope, receive, send)
