"""How Kafka is reached: addresses, security protocol and credentials, as one value that every client is made from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from pydantic import SecretStr

_NONE = SecretStr("")


class SecurityProtocol(StrEnum):
    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def has_tls(self) -> bool:
        return self in (self.SSL, self.SASL_SSL)

    @property
    def has_sasl(self) -> bool:
        return self in (self.SASL_PLAINTEXT, self.SASL_SSL)


class SaslMechanism(StrEnum):
    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"
    OAUTHBEARER = "OAUTHBEARER"


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """`bootstrap`: host:port of some brokers, separated by commas. The other fields: see the settings `RECSYS_KAFKA_*`.
    Files are read when a client is made; `token_file` each time that it authenticates.

    `topic_prefix` is part of every name in Kafka, and of none elsewhere: only `streaming.log` knows of it."""

    bootstrap: str
    security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    sasl_mechanism: SaslMechanism | None = None
    user: str = ""
    password: SecretStr = _NONE
    password_file: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: SecretStr = _NONE
    topic_prefix: str = ""

    def in_kafka(self, name: str) -> str:
        """What a topic, or a consumer group, is called there.

        >>> KafkaConnection("", topic_prefix="shop-a.").in_kafka("events")
        'shop-a.events'
        """
        return f"{self.topic_prefix}{name}"

    def named(self, topic: str) -> str:
        """The inverse of `in_kafka`."""
        return topic.removeprefix(self.topic_prefix)

    def problems(self) -> Iterator[str]:
        """What does not fit together, and what to set. Nothing is asked of the files: they may come later."""
        protocol, mechanism = self.security_protocol, self.sasl_mechanism
        if not self.bootstrap and replace(self, topic_prefix="") != KafkaConnection(""):
            yield "RECSYS_KAFKA_* is set for a Kafka without an address: set RECSYS_KAFKA_BOOTSTRAP"
        if protocol.has_sasl and mechanism is None:
            yield f"{protocol} needs RECSYS_KAFKA_SASL_MECHANISM: {', '.join(SaslMechanism)}"
        if mechanism is not None and not protocol.has_sasl:
            yield f"{mechanism} needs RECSYS_KAFKA_SECURITY_PROTOCOL=SASL_SSL, or SASL_PLAINTEXT; it is {protocol}"
        if not protocol.has_tls and (self.ca_file or self.certificate_file or self.key_file):
            yield f"certificates need RECSYS_KAFKA_SECURITY_PROTOCOL=SSL or SASL_SSL; it is {protocol}"
        if self.certificate_file is None and (self.key_file or self.key_password):
            yield "a key without its certificate: set RECSYS_KAFKA_CERTIFICATE_FILE"
        yield from self._problems_of_credentials()

    def _problems_of_credentials(self) -> Iterator[str]:
        mechanism = self.sasl_mechanism
        has_password = bool(self.password or self.password_file)
        if self.password and self.password_file:
            yield "set one of RECSYS_KAFKA_PASSWORD and RECSYS_KAFKA_PASSWORD_FILE"
        if mechanism is None:
            if self.user or has_password or self.token_file:
                yield "credentials need RECSYS_KAFKA_SASL_MECHANISM and RECSYS_KAFKA_SECURITY_PROTOCOL=SASL_SSL"
        elif mechanism is SaslMechanism.OAUTHBEARER:
            if self.token_file is None:
                yield f"{mechanism} needs RECSYS_KAFKA_TOKEN_FILE"
            if self.user or has_password:
                yield f"{mechanism} has a token, not a user and a password: unset RECSYS_KAFKA_USER and _PASSWORD"
        else:
            if not self.user:
                yield f"{mechanism} needs RECSYS_KAFKA_USER"
            if not has_password:
                yield f"{mechanism} needs RECSYS_KAFKA_PASSWORD, or RECSYS_KAFKA_PASSWORD_FILE"
            if self.token_file:
                yield f"{mechanism} has no token: unset RECSYS_KAFKA_TOKEN_FILE"
