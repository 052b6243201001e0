"""How every store of this project reaches Redis."""

from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.contracts.errors import InvalidConfig

CONNECT_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 5.0


def connect(url: str, timeout_s: float = READ_TIMEOUT_S, retries: int = 1) -> Any:
    """A client, which connects on first use.

    Args:
        timeout_s: how long one call may wait; a request cannot wait as long as a worker.
        retries: on a new connection, for the pool's may be from before a restart; a server that was slow once is not
            waited for twice. 0 for what must not happen twice.

    Returns:
        `redis.Redis`; typed Any, for its own types leave open whether replies are bytes or text.

    Raises:
        InvalidConfig: the URL is not a Redis URL.
    """
    try:
        return redis.Redis.from_url(
            url,
            socket_connect_timeout=min(timeout_s, CONNECT_TIMEOUT_S),
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,)),
            protocol=2,  # flat replies: reading a user takes half the time that nested ones take
        )
    except ValueError as error:
        raise InvalidConfig(f"redis_url: {error}") from error


def script(name: str) -> str:
    """A Lua script of this package."""
    return files("recsys.store").joinpath(name).read_text(encoding="utf-8")
