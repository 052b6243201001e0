"""The client, errors and scripts of every store on Redis."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.observability.logs import hide_password_of

CONNECT_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 5.0


def connect(url: str, timeout_s: float = READ_TIMEOUT_S, retries: int = 1) -> Any:
    """A `redis.Redis` that connects on first use; typed Any, because its types do not tell bytes from text.

    Args:
        timeout_s: of one call; requests wait less than workers.
        retries: on a new connection, in case the pooled one predates a restart; timeouts are not retried. 0 for calls
            that must not run twice.

    Raises:
        InvalidConfig: the URL is not a Redis URL.
    """
    try:
        hide_password_of(url)
        return redis.Redis.from_url(
            url,
            socket_connect_timeout=min(timeout_s, CONNECT_TIMEOUT_S),
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,)),
            protocol=2,  # flat replies: reading a user takes half the time that nested ones take
        )
    except ValueError:  # its message quotes the URL, which may have a password
        raise InvalidConfig(
            "redis_url: not a Redis URL; write redis://user:password@host:port/0 and percent-encode the password"
        ) from None


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise `Unavailable` for an outage, a failover and a full server; other errors are errors in the code."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise Unavailable(f"Redis: {error}") from error
    except redis.ReadOnlyError as error:
        raise Unavailable(f"Redis is a read-only replica now: {error}") from error
    except redis.OutOfMemoryError as error:
        raise Unavailable(f"Redis is full; raise maxmemory: {error}") from error


def script(name: str) -> str:
    """A Lua script of this package."""
    return files("recsys.store").joinpath(name).read_text(encoding="utf-8")
