"""Connect to Kafka, and say why it lets nobody in.

kafka-python tries again for ever, whatever a broker answers, and then says only that it took too long. The connections
made here remember why they failed. What no retry mends (a wrong password, an unknown authority, another protocol on the
port) ends the first contact at once, as `AccessRefused`.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kafka.errors import (
    IllegalSaslStateError,
    InvalidReceiveError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.sasl.oauth import AbstractTokenProvider
from kafka.net.selector import NetworkSelector

from recsys.contracts.errors import AccessRefused, InvalidConfig, Unavailable
from recsys.kafka_connection import KafkaConnection

CONNECT_TIMEOUT_MS = 5_000


def client_options(kafka: KafkaConnection) -> dict[str, Any]:
    """What every client of kafka-python takes. Raises `InvalidConfig`: a file cannot be read."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap,
        "bootstrap_timeout_ms": CONNECT_TIMEOUT_MS,
        "reconnect_backoff_max_ms": 1_000,
        "security_protocol": str(kafka.security_protocol),
        "kafka_client": partial(_client, kafka),
    }
    if kafka.security_protocol.has_tls:
        options["ssl_context"] = _tls(kafka)
    if kafka.sasl_mechanism is not None:
        options["sasl_mechanism"] = str(kafka.sasl_mechanism)
    if kafka.token_file is not None:
        options["sasl_oauth_token_provider"] = _TokenFile(kafka.token_file)
    elif kafka.sasl_mechanism is not None:
        file, password = kafka.password_file, kafka.password.get_secret_value()
        options |= {
            "sasl_plain_username": kafka.user,
            "sasl_plain_password": _secret(file) if file else password,
        }
    return options


@contextmanager
def kafka_errors(kafka: KafkaConnection) -> Iterator[None]:
    """Translate errors of the Kafka client into `Unavailable` and `AccessRefused`."""
    try:
        yield
    except (KafkaError, OSError) as error:
        if reason := refusal(error, kafka):
            raise AccessRefused(f"Kafka at {kafka.bootstrap} {reason}") from error
        raise Unavailable(f"Kafka at {kafka.bootstrap}: {_words(error)}") from error


def refusal(error: BaseException, kafka: KafkaConnection) -> str:
    """What a broker does not accept, and what to check; empty: it is away, or that may pass."""
    if isinstance(error, _RefusedError):
        return _words(error)
    if isinstance(error, InvalidConfig):
        return f"needs {error}"
    if isinstance(error, SaslAuthenticationFailedError):
        if kafka.token_file:
            return f"refuses the token: {_words(error)}; check RECSYS_KAFKA_TOKEN_FILE"
        return (
            f"refuses user {kafka.user}: {_words(error)}; check RECSYS_KAFKA_USER and RECSYS_KAFKA_PASSWORD"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"does not offer {kafka.sasl_mechanism}; check RECSYS_KAFKA_SASL_MECHANISM"
    if isinstance(error, IllegalSaslStateError):
        return "takes no SASL on this port; check RECSYS_KAFKA_SECURITY_PROTOCOL and the port"
    if isinstance(error, InvalidReceiveError) and not kafka.security_protocol.has_tls:
        return "does not speak plain Kafka, but TLS? Set RECSYS_KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"
    cause = error.__context__ or next(iter(error.args), None)
    if isinstance(error, KafkaConnectionError) and isinstance(cause, ssl.SSLError):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"has a certificate that is not trusted: {cause.verify_message}; check RECSYS_KAFKA_CA_FILE, and that"
                " the certificate has the name in RECSYS_KAFKA_BOOTSTRAP"
            )
        if "ALERT" in (cause.reason or ""):
            return (
                f"refuses this client's certificate, or the lack of one: {cause.reason}; check"
                " RECSYS_KAFKA_CERTIFICATE_FILE and RECSYS_KAFKA_KEY_FILE"
            )
    return ""


def _words(error: BaseException) -> str:
    """What went wrong, without kafka-python's number and name of it."""
    if not error.args or not isinstance(error, KafkaError):
        return repr(error)
    return str(error.args[0]).removeprefix(f"{type(error).__name__}: ")


class _RefusedError(KafkaError):  # type: ignore[misc]  # untyped
    """Why the first contact ends before its time."""


def _client(kafka: KafkaConnection, **config: Any) -> Any:
    net = NetworkSelector(**config)
    return KafkaNetClient(net, ConnectionManager(kafka, net, **config))


class ConnectionManager(KafkaConnectionManager):  # type: ignore[misc]  # untyped
    """refused: why a broker did not let this client in the last time; empty: it did, or there was no answer."""

    refused = ""
    _failed = ""  # how the latest connection did

    def __init__(self, kafka: KafkaConnection, net: Any, **config: Any) -> None:
        super().__init__(net, **config)
        self._kafka = kafka

    async def _do_bootstrap(self, deadline: float | None) -> Any:
        try:
            return await super()._do_bootstrap(deadline)
        except KafkaTimeoutError as error:
            raise KafkaTimeoutError(f"no answer in time ({self._failed or 'no connection'})") from error

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        """A transport that also reads what comes together with the end of the connection, such as the refusal of a
        password: kafka-python would drop it."""
        transport = await super()._build_transport(node, timeout_at)
        receive = transport._sock_recv

        def receive_last_words() -> tuple[bytes, Exception | None]:
            content, error = receive()
            return content, None if content else error  # the end is met again

        transport._sock_recv = receive_last_words
        return transport

    def get_connection(self, node_id: Any, *args: Any, **options: Any) -> Any:
        """Raises `_RefusedError` in the first contact. A client that runs keeps trying: rights come back."""
        if self.refused and not self.bootstrapped:
            raise _RefusedError(self.refused)
        known = self._conns.get(node_id)
        connection = super().get_connection(node_id, *args, **options)
        if connection is not known:
            connection.init_future.add_callback(self._note_success)
            connection.init_future.add_errback(self._note_failure)
            connection.close_future.add_errback(partial(self._note_end, connection.init_future))
        return connection

    def _note_success(self, _: Any) -> None:
        self.refused = ""

    def _note_failure(self, error: Exception) -> None:
        if not isinstance(
            error, (KafkaTimeoutError, RequestTimedOutError)
        ):  # they say less than what came before
            self.refused = refusal(error, self._kafka)
            self._failed = _words(error)
            if isinstance(error.__context__, ssl.SSLEOFError):
                self._failed += "; does this port speak TLS?"

    def _note_end(self, init: Any, error: Exception) -> None:
        """Of a connection that was accepted: a broker that wants SASL ends it at the first request."""
        if init.succeeded() and not self.bootstrapped:
            asks = "" if self._kafka.sasl_mechanism else "; does it want RECSYS_KAFKA_SASL_MECHANISM?"
            self._failed = f"it ends each connection{asks}"


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # untyped
    """The token of the moment: another process renews it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def token(self) -> str:
        return _secret(self._path)


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"credentials from {path}, which cannot be read: {error}") from error


def _tls(kafka: KafkaConnection) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=kafka.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidConfig(f"RECSYS_KAFKA_CA_FILE: {kafka.ca_file}: {error}") from error
    if kafka.certificate_file is not None:
        password = kafka.key_password.get_secret_value()
        try:  # `password` as a function: an empty one is no reason to ask at the terminal
            context.load_cert_chain(kafka.certificate_file, kafka.key_file, lambda: password)
        except (OSError, ssl.SSLError) as error:
            files = f"{kafka.certificate_file}, {kafka.key_file or 'its key'}"
            raise InvalidConfig(
                f"RECSYS_KAFKA_CERTIFICATE_FILE and RECSYS_KAFKA_KEY_FILE: {files}: {error}"
            ) from error
    return context
