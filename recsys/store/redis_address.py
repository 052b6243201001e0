"""Where Redis is, read from one URL: a server, a cluster, or a service that Sentinel watches.

    redis://user:password@host:port/DB
    redis+cluster://user:password@host:port,host:port
    redis+sentinel://user:password@host:port,host:port/SERVICE/DB   the hosts are Sentinels

`rediss…` is the same by TLS, with the parameters `ssl_ca_certs` (authorities; default: the system's), `ssl_certfile`
and `ssl_keyfile` (this client's certificate). `sentinel_auth=yes`: Sentinels ask for the same user and password.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from recsys.contracts.errors import InvalidConfig
from recsys.observability.logs import hide_password_of


class Kind(StrEnum):
    """What answers at the hosts of a URL."""

    SERVER = ""
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


_FORMS = {
    Kind.SERVER: "redis://user:password@host:port/0",
    Kind.CLUSTER: "redis+cluster://user:password@host:port,host:port",
    Kind.SENTINEL: "redis+sentinel://user:password@host:port,host:port/SERVICE/0",
}
_PORTS = {Kind.SERVER: 6379, Kind.CLUSTER: 6379, Kind.SENTINEL: 26379}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_SENTINEL_AUTH = "sentinel_auth"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """`credentials` and `tls` are arguments of a `redis.Redis`."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    credentials: Mapping[str, str]
    tls: Mapping[str, str | bool]
    database: int = 0
    service: str = ""
    sentinel_auth: bool = False


def parse_address(url: str) -> RedisAddress:
    """Raises `InvalidConfig`: it is no such URL, or a file in it is missing. No message quotes the URL, which may have
    a password."""
    try:
        hide_password_of(url)
        parts = urlsplit(url)
        scheme, _, kind_name = parts.scheme.partition("+")
        kind = Kind(kind_name)
        if scheme not in ("redis", "rediss") or parts.scheme.endswith("+"):
            raise ValueError
        hosts = _hosts(parts, kind)
        service, database = _path(parts, kind)
    except ValueError:
        raise InvalidConfig(
            f"redis_url: not a Redis URL; write {', '.join(list(_FORMS.values())[:-1])} or {_FORMS[Kind.SENTINEL]}"
            " (rediss… by TLS), and percent-encode the password"
        ) from None
    parameters = _parameters(parts, kind, is_tls=scheme == "rediss")
    sentinel_auth = parameters.pop(_SENTINEL_AUTH, "no")
    if sentinel_auth not in ("yes", "no"):
        raise InvalidConfig(f"redis_url: {_SENTINEL_AUTH} is yes or no")
    given = {"username": parts.username, "password": parts.password}
    return RedisAddress(
        kind,
        hosts,
        credentials={name: unquote(value) for name, value in given.items() if value},
        tls={"ssl": True, **parameters} if scheme == "rediss" else {},
        database=database,
        service=service,
        sentinel_auth=sentinel_auth == "yes",
    )


def _hosts(parts: SplitResult, kind: Kind) -> tuple[tuple[str, int], ...]:
    """Raises `ValueError`: none, one without a name, or several of a single server."""
    given = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
    if kind is Kind.SERVER and len(given) > 1:
        raise ValueError
    hosts = [(host.hostname or "", host.port or _PORTS[kind]) for host in given]
    if not all(name for name, _ in hosts):
        raise ValueError
    return tuple(hosts)


def _path(parts: SplitResult, kind: Kind) -> tuple[str, int]:
    """Service and database. Raises `ValueError`: not of this kind."""
    *names, database = parts.path.strip("/").split("/")
    if kind is Kind.SENTINEL and not names:  # the database may be left out
        names, database = [database], ""
    if (
        len(names) != (kind is Kind.SENTINEL)
        or not all(names)
        or (kind is Kind.CLUSTER and int(database or 0))
    ):
        raise ValueError
    return unquote(names[0]) if names else "", int(database or 0)


def _parameters(parts: SplitResult, kind: Kind, is_tls: bool) -> dict[str, str]:
    known = (*(_FILES if is_tls else ()), *((_SENTINEL_AUTH,) if kind is Kind.SENTINEL else ()))
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(given.keys() - known):
        hint = "" if is_tls or not set(unknown) <= set(_FILES) else "; with TLS the URL begins with rediss"
        raise InvalidConfig(
            f"redis_url: unknown parameter {', '.join(unknown)}; known here: {', '.join(known) or 'none'}{hint}"
        )
    for name in _FILES:
        if name in given and not Path(given[name]).is_file():
            raise InvalidConfig(f"redis_url: {name}: there is no file {given[name]}")
    return given
