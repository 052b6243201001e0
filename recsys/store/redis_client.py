"""The client, errors and scripts of every store on Redis."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import redis
import structlog
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.commands.core import Script
from redis.exceptions import RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.store.redis_address import Kind, RedisAddress, parse_address
from recsys.store.redis_cluster import ClusterClient, masters, routed

CONNECT_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 5.0

_log = structlog.get_logger(__name__)


def connect(url: str, timeout_s: float = READ_TIMEOUT_S, retries: int = 1) -> Any:
    """A `redis.Redis` that connects on first use, or the client of a cluster; typed Any, because their types do not
    tell bytes from text.

    Args:
        url: of a server, a cluster or Sentinels (`redis_address`).
        timeout_s: of one call; requests wait less than workers.
        retries: on a new connection, in case the pooled one predates a restart; timeouts are not retried. 0 for calls
            that must not run twice.

    Raises:
        InvalidConfig: the URL is not a Redis URL.
    """
    address = parse_address(url)
    anonymous: dict[str, Any] = {
        "socket_connect_timeout": min(timeout_s, CONNECT_TIMEOUT_S),
        "socket_timeout": timeout_s,
        "protocol": 2,  # flat replies: reading a user takes half the time that nested ones take
        "retry": Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,)),
        **address.tls,
    }
    options = anonymous | dict(address.credentials)
    match address.kind:
        case Kind.SERVER:
            [(host, port)] = address.hosts
            return redis.Redis(host, port, address.database, **options)
        case Kind.CLUSTER:
            return ClusterClient(lambda: _cluster(address, options))
        case Kind.SENTINEL:
            asking = options if address.sentinel_auth else anonymous
            sentinel = Sentinel(address.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
            return sentinel.master_for(address.service, db=address.database, **options)  # type: ignore[no-untyped-call]


def _cluster(address: RedisAddress, options: Mapping[str, Any]) -> RedisCluster:
    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],  # type: ignore[no-untyped-call]
        dynamic_startup_nodes=False,  # the names of the URL remain when all nodes get other addresses
        reinitialize_steps=1,  # each pipeline counts its own errors: beyond `retries`, it would never see a failover
        **options,
    )


# What a server in a bad state answers, by the first word of its error, and what to do.
_STATES: Mapping[str, str] = {
    "ASK": "the cluster moves this slot now; RECSYS_REDIS_URL of a cluster begins with redis+cluster://",
    "BUSY": "a script blocks it: SCRIPT KILL, or wait",
    "CLUSTERDOWN": "the cluster has no majority or misses slots",
    "LOADING": "it loads its data; wait",
    "MASTERDOWN": "a replica without its master",
    "MISCONF": "it cannot write to its disk, so it takes no writes: see its log",
    "MOVED": "this node does not have the slot; RECSYS_REDIS_URL of a cluster begins with redis+cluster://",
    "NOPERM": "the account may not run this: extend its ACL (docs/operations.md)",
    "NOREPLICAS": "it has too few replicas (min-replicas-to-write), so it takes no writes",
    "NOSCRIPT": "it has lost its scripts",
    "OOM": "it is full: raise maxmemory",
    "READONLY": "it is a read-only replica now",
    "TRYAGAIN": "the cluster moves this slot now",
    "UNBLOCKED": "it has become a replica",
    "WRONGTYPE": "a key of ours has a value of another program: find and delete it (docs/operations.md)",
}
# the client turns some of them into classes and drops the word
_CLASSES: Mapping[type[redis.RedisError], str] = {
    redis.exceptions.MovedError: "MOVED",  # also an AskError
    redis.exceptions.AskError: "ASK",
    redis.BusyLoadingError: "LOADING",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.OutOfMemoryError: "OOM",
    redis.ReadOnlyError: "READONLY",
    redis.exceptions.TryAgainError: "TRYAGAIN",
}
# first, behind "of pipeline caused error: " or "discarded because of: ", or as an old server quotes a script's error
_STATE = re.compile(rf"(?:^|: )-?({'|'.join(_STATES)})\b")


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise `Unavailable` for an outage and for a server in a bad state; other errors are errors in the code."""
    try:
        yield
    except (redis.RedisError, RedisClusterException, OSError) as error:
        unavailable = _unavailable(error)
        if unavailable is None:
            raise
        raise unavailable from error


def is_wrong_type(error: Exception) -> bool:
    """Whether a key has a value of another type than ours: one entity is damaged, the server is well."""
    return _state(error) == "WRONGTYPE"


def _unavailable(error: Exception) -> Unavailable | None:
    state = _state(error)
    if state:
        return Unavailable(f"Redis: {_STATES[state]} ({state}: {error})")
    if isinstance(error, redis.InvalidResponse):
        return Unavailable(
            f"Redis: what answers there is no Redis server, or a proxy broke its answer off ({error}); check"
            " RECSYS_REDIS_URL"
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Unavailable(
            f"Redis: its certificate is not trusted: name its authority by ?ssl_ca_certs=FILE in RECSYS_REDIS_URL, and"
            f" a host that the certificate names ({error})"
        )
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | RedisClusterException | OSError):
        return Unavailable(f"Redis: {error}")
    return None


def _state(error: Exception) -> str:
    for kind, state in _CLASSES.items():
        if isinstance(error, kind):
            return state
    if not isinstance(error, redis.ResponseError):
        return ""
    if "ACL failure in script" in str(error):
        return "NOPERM"
    found = _STATE.search(str(error))
    return found[1] if found else ""


def refuse_eviction(client: Any) -> None:
    """Raises `InvalidConfig`: a server may drop states and offsets when its memory is full. Managed servers forbid
    CONFIG, so this reads INFO; where that is forbidden too, it is said in the log."""
    for server in masters(client):
        try:
            policy = server.info("memory").get("maxmemory_policy", "noeviction")
        except redis.exceptions.NoPermissionError:
            _log.warning("the account may not read INFO; see that maxmemory-policy is noeviction")
            return
        if policy != "noeviction":
            raise InvalidConfig(
                f"Redis may evict states and offsets (maxmemory-policy is {policy}); set it to noeviction: CONFIG SET"
                " maxmemory-policy noeviction, or in the parameters of a managed server, where CONFIG is forbidden"
            )


def script(name: str) -> str:
    """A Lua script of this package."""
    return files("recsys.store").joinpath(name).read_text(encoding="utf-8")


def call_each(client: Any, called: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
    """Call a script for each (keys, arguments), in one round trip to each server. It may run twice.
    Returns the replies; the error in place of one."""
    for _ in range(2):
        with client.pipeline(transaction=False) as pipe:
            for keys, arguments in calls:
                options = routed(client, keys[0])
                pipe.execute_command("EVALSHA", called.sha, len(keys), *keys, *arguments, **options)
            replies: list[Any] = pipe.execute(raise_on_error=False)
        if not any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
            break
        client.script_load(called.script)
    return replies
