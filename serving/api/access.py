"""Who may call a route, and how often: API keys with their scopes and rates."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from starlette.requests import Request

from recsys.contracts.errors import Unavailable
from serving.api.connections import client_of
from serving.api.failed_keys import FailedKeys
from serving.api.security import Caller, Keys
from serving.problems import Problem
from serving.settings import Scope

TakeTokens = Callable[[str, int], float]  # key, tokens → seconds to wait; may raise Unavailable


class Access:
    """`take_tokens` None: no rate limit. It waits for Redis, so it runs in `io`."""

    def __init__(self, keys: Keys, io: Executor, take_tokens: TakeTokens | None = None) -> None:
        self.keys = keys
        self._failed = FailedKeys()
        self._io = io
        self.take_tokens = take_tokens

    async def check(self, request: Request, scope: Scope) -> Caller:
        """The caller of a route that counts as one request.
        Raises `Problem`: 401 for an unknown key, 403 when it lacks the scope, 429 with Retry-After."""
        caller = await self._known(request)
        await self.count(caller)
        caller.allow(scope)
        return caller

    async def caller(self, request: Request, scope: Scope, basic: bool = False) -> Caller:
        """The caller, not counted yet; `basic` as for `Keys.caller`.
        Raises `Problem`: 401, 403, or 429 for many 401s."""
        caller = await self._known(request, basic)
        caller.allow(scope)
        return caller

    async def _known(self, request: Request, basic: bool = False) -> Caller:
        try:
            return self.keys.caller(request.headers, basic)
        except Problem:
            await self._failed.note(client_of(request.client.host) if request.client else "")
            raise

    async def count_records(self, caller: Caller, what: str, records: int, most: int) -> None:
        """Count each record of a batch. Raises `Problem`: 413 for more than `most`, or 429."""
        if records > most:
            raise Problem(413, f"{what}: at most {most} in one request, got {records}")
        await self.count(caller, max(1, records))

    async def count(self, caller: Caller, tokens: int = 1) -> None:
        """Count against the key's rate. Without Redis there is no limit: an outage of the counter must not become one
        of the API.
        Raises `Problem`: 429 with Retry-After."""
        if self.take_tokens is None or not caller.name:
            return
        take = partial(self.take_tokens, caller.name, tokens)
        try:
            wait_s = await asyncio.get_running_loop().run_in_executor(self._io, take)
        except Unavailable:
            return
        if wait_s > 0:
            headers = {"retry-after": str(math.ceil(wait_s))}
            raise Problem(429, f"the key {caller.name!r} has used up its rate; retry later", headers)
