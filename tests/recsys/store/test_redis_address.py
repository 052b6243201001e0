"""Where Redis is: known URLs of each kind, and what is refused."""

from pathlib import Path

import pytest

from recsys.contracts.errors import InvalidConfig
from recsys.store.redis_address import Kind, RedisAddress, parse_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", RedisAddress(Kind.SERVER, (("h", 6379),), {}, {})),
        (
            "redis://app:p%40ss@h:7000/3",
            RedisAddress(Kind.SERVER, (("h", 7000),), {"username": "app", "password": "p@ss"}, {}, 3),
        ),
        (
            "redis://:secret@[::1]:7000/0",
            RedisAddress(Kind.SERVER, (("::1", 7000),), {"password": "secret"}, {}),
        ),
        ("rediss://h:1/0", RedisAddress(Kind.SERVER, (("h", 1),), {}, {"ssl": True})),
        (
            "redis+cluster://app:secret@a:1,b",
            RedisAddress(
                Kind.CLUSTER, (("a", 1), ("b", 6379)), {"username": "app", "password": "secret"}, {}
            ),
        ),
        (
            "redis+sentinel://a:1,b/main/2?sentinel_auth=yes",
            RedisAddress(Kind.SENTINEL, (("a", 1), ("b", 26379)), {}, {}, 2, "main", True),
        ),
        (
            "rediss+sentinel://a/main",
            RedisAddress(Kind.SENTINEL, (("a", 26379),), {}, {"ssl": True}, 0, "main"),
        ),
    ],
)
def test_a_url_of_each_kind(url: str, address: RedisAddress) -> None:
    assert parse_address(url) == address


def test_files_of_tls_must_be_there(tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    url = f"rediss+cluster://h:1?ssl_ca_certs={authorities}"
    with pytest.raises(InvalidConfig, match=r"ssl_ca_certs: there is no file .*ca\.pem"):
        parse_address(url)
    authorities.touch()
    assert parse_address(url).tls == {"ssl": True, "ssl_ca_certs": str(authorities)}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:6379",
        "http://hunter2@h",
        "redis+://h",
        "redis+proxy://h",
        "redis://",
        "redis://:hunter2@:1/0",
        "redis://a:1,b:1/0",  # several hosts of one server
        "redis://h/main",
        "redis+cluster://h/1",  # a cluster has one database
        "redis+cluster://a,,b",
        "redis+sentinel://h",  # which service?
        "redis+sentinel://h/main/zero",
        "redis+sentinel://h/a/b/0",
    ],
)
def test_another_url_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(InvalidConfig, match=r"redis\+cluster://user:password@host:port,host:port") as refused:
        parse_address(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://h/0?socket_timeout=1", "unknown parameter socket_timeout; known here: none"),
        ("redis://h/0?ssl_ca_certs=x", "begins with rediss"),
        ("rediss://h/0?ssl_cert_reqs=none", "unknown parameter ssl_cert_reqs; known here: ssl_ca_certs"),
        ("redis+sentinel://h/main/0?sentinel_auth=maybe", "sentinel_auth is yes or no"),
    ],
)
def test_an_unknown_parameter_is_refused(url: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        parse_address(url)
