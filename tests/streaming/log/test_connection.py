"""Clients of Kafka behind TLS: what they are made from, and what they say of a port that does not let them in.

The ports here are not brokers: they end each connection after the handshake, which is as far as these clients get.
`test_secured_kafka.py` has the real one.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from recsys.contracts.errors import AccessRefused, InvalidConfig, Unavailable
from recsys.kafka_connection import KafkaConnection, SaslMechanism, SecurityProtocol
from streaming.log.connection import client_options
from streaming.log.topics import connect
from tests.certificates import self_signed

PLAINTEXT, TLS = SecurityProtocol.PLAINTEXT, SecurityProtocol.SSL
HANDSHAKE, ALERT = b"\x16", b"\x15\x03\x03\x00\x02\x02\x50"  # of TLS


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "node.pem", password=b"open")


@pytest.fixture
def port(pem: Path) -> Iterator[Callable[[ssl.VerifyMode], str]]:
    """Open a TLS port that wants the client's certificate, or does not. Returns its address."""
    with contextlib.ExitStack() as opened:

        def listen(mode: ssl.VerifyMode) -> str:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem, password="open")
            context.load_verify_locations(pem)
            context.verify_mode = mode
            listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
            opened.callback(listener.shutdown, socket.SHUT_RDWR)
            threading.Thread(target=_shake_hands, args=(listener, context), daemon=True).start()
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield listen


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError):
        while True:
            taken, _ = listener.accept()
            with taken, contextlib.suppress(OSError):
                if taken.recv(1, socket.MSG_PEEK) != HANDSHAKE:  # as Apache Kafka 4.3.1 answers
                    taken.recv(1_000)
                    taken.sendall(ALERT)
                    continue
                secured = context.wrap_socket(taken, server_side=True, do_handshake_on_connect=False)
                with contextlib.suppress(ssl.SSLError):
                    secured.do_handshake()
                with socket.socket(fileno=secured.detach()) as raw:  # a reset would overtake the alert
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(1_000):
                        pass


@pytest.mark.parametrize(
    ("mode", "protocol", "trusts", "says"),
    [
        (ssl.CERT_NONE, PLAINTEXT, False, "Set RECSYS_KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"),
        (ssl.CERT_NONE, TLS, False, "not trusted: self-signed certificate; check RECSYS_KAFKA_CA_FILE"),
        (ssl.CERT_REQUIRED, TLS, True, "CERTIFICATE_REQUIRED; check RECSYS_KAFKA_CERTIFICATE_FILE"),
    ],
)
def test_a_port_that_lets_nobody_in_is_named_before_the_time_is_over(
    port: Callable[[ssl.VerifyMode], str],
    pem: Path,
    mode: ssl.VerifyMode,
    protocol: SecurityProtocol,
    trusts: bool,
    says: str,
) -> None:
    kafka = KafkaConnection(port(mode), protocol, ca_file=pem if trusts else None)
    with pytest.raises(AccessRefused, match=says), connect(kafka, timeout_ms=60_000):
        pass


def test_what_may_pass_is_waited_for_and_then_named(port: Callable[[ssl.VerifyMode], str], pem: Path) -> None:
    kafka = KafkaConnection(port(ssl.CERT_NONE), TLS, ca_file=pem)  # trusted, and yet each connection ends
    with pytest.raises(Unavailable, match="no answer in time") as error, connect(kafka, timeout_ms=300):
        pass
    assert not isinstance(error.value, AccessRefused)


def test_credentials_come_from_files_that_others_renew(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("first\n")
    user = KafkaConnection("k:1", SecurityProtocol.SASL_SSL, SaslMechanism.PLAIN, "app", password_file=file)
    bearer = KafkaConnection("k:1", SecurityProtocol.SASL_SSL, SaslMechanism.OAUTHBEARER, token_file=file)
    provider = client_options(bearer)["sasl_oauth_token_provider"]
    assert (client_options(user)["sasl_plain_password"], provider.token()) == ("first", "first")
    file.write_text("second\n")
    assert (client_options(user)["sasl_plain_password"], provider.token()) == ("second", "second")
    file.unlink()
    with pytest.raises(InvalidConfig, match=str(file)):
        client_options(user)


def test_certificates_that_cannot_be_read_are_named(pem: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="RECSYS_KAFKA_CA_FILE"):
        client_options(KafkaConnection("k:1", TLS, ca_file=tmp_path / "none.pem"))
    opens = KafkaConnection("k:1", TLS, certificate_file=pem, key_password=SecretStr("open"))
    assert isinstance(client_options(opens)["ssl_context"], ssl.SSLContext)
    for wrong in (SecretStr("wrong"), SecretStr("")):
        with pytest.raises(InvalidConfig, match="RECSYS_KAFKA_KEY_FILE"):
            client_options(KafkaConnection("k:1", TLS, certificate_file=pem, key_password=wrong))
