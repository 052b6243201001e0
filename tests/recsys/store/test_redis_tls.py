"""TLS: whom the client trusts, what it shows, and what it says otherwise."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.contracts.errors import Unavailable
from recsys.store.redis_client import connect, redis_errors
from tests.certificates import self_signed
from tests.redis_tls import TlsRedisServer

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture(scope="module")
def server(certificate: Path) -> Iterator[TlsRedisServer]:
    """It asks clients for a certificate of its authority."""
    try:
        made = TlsRedisServer(certificate, asks_clients=True)
    except Unavailable as error:
        pytest.skip(str(error))
    with made:
        yield made


def test_a_client_with_a_certificate_is_let_in(server: TlsRedisServer, certificate: Path) -> None:
    with connect(f"{server.url}&ssl_certfile={certificate}&ssl_keyfile={certificate}") as client:
        assert client.ping()
    with connect(server.url) as client, pytest.raises(Unavailable), redis_errors():
        client.ping()


def test_an_authority_that_is_not_trusted_is_said(server: TlsRedisServer, tmp_path: Path) -> None:
    other = self_signed(tmp_path / "other.pem")
    for url in (
        f"rediss://127.0.0.1:{server.port}/0",
        f"{server.url.partition('?')[0]}?ssl_ca_certs={other}",
    ):
        with (
            connect(url) as client,
            pytest.raises(Unavailable, match=r"not trusted.*\?ssl_ca_certs=FILE"),
            redis_errors(),
        ):
            client.ping()


def test_a_host_that_the_certificate_does_not_name_is_said(server: TlsRedisServer) -> None:
    with (
        connect(server.url.replace("127.0.0.1", "localhost")) as client,
        pytest.raises(Unavailable, match="a host that the certificate names"),
        redis_errors(),
    ):
        client.ping()
