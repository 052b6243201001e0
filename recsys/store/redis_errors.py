"""What the Redis client raises, as an error of this project: one place, for everything that talks to Redis."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from recsys.contracts.errors import Unavailable


@contextmanager
def redis_errors() -> Iterator[None]:
    """Within it an outage, a failover and a full server are `Unavailable`; anything else is an error in the code."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise Unavailable(f"Redis: {error}") from error
    except redis.ReadOnlyError as error:
        raise Unavailable(f"Redis is a read-only replica now: {error}") from error
    except redis.OutOfMemoryError as error:
        raise Unavailable(f"Redis is full; raise maxmemory: {error}") from error
