"""Apache Kafka that asks who comes: every protocol and mechanism, who is refused, and rights that come back."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import pytest
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion
from pydantic import SecretStr

from infra.cli.status import gather
from infra.local.apache_kafka import ApacheKafka
from infra.local.process import free_port
from recsys.contracts.errors import AccessRefused, Unavailable
from recsys.kafka_connection import KafkaConnection, SaslMechanism, SecurityProtocol
from recsys.settings import Settings
from streaming.log import KafkaSink, KafkaSource, create_topics, reachable
from streaming.log.topics import connect
from tests.certificates import self_signed

pytestmark = [pytest.mark.apache_kafka, pytest.mark.slow]

PATIENCE_S = 60.0
SECRET = SecretStr("open sesame")
_LOGIN = "org.apache.kafka.common.security"


class Secured:
    """A node with a port for each way in, and how to use them."""

    def __init__(self, jars: Path, folder: Path) -> None:
        self.pem = self_signed(folder / "node.pem")
        self.token = folder / "token"
        ports = {
            name: free_port() for name in ("PLAINTEXT", "SASL_SSL", "SSL", "SASL_PLAINTEXT", "CONTROLLER")
        }
        listeners = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        plain = f'{_LOGIN}.plain.PlainLoginModule required user_app="{SECRET.get_secret_value()}";'
        bearer = f'{_LOGIN}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="b";'
        options = {
            "controller.quorum.voters": f"1@{self.addresses['CONTROLLER']}",
            "listeners": ",".join(listeners.values()),
            "advertised.listeners": ",".join(at for name, at in listeners.items() if name != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{n}:{n}" for n in ports if n != "CONTROLLER")
            + ",CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.pem),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.pem),
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": ",".join(SaslMechanism),
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": plain,
            "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": plain,
            "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config": bearer,
            "listener.name.sasl_ssl.oauthbearer.connections.max.reauth.ms": "1500",
        }
        for digest in ("256", "512"):
            name = f"listener.name.sasl_ssl.scram-sha-{digest}.sasl.jaas.config"
            options[name] = f"{_LOGIN}.scram.ScramLoginModule required;"
        self.node = ApacheKafka(port=ports["PLAINTEXT"], jars=jars, options=options)

    def add_scram_user(self) -> None:
        with connect(self.node.connection) as admin:
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                user = UserScramCredentialUpsertion("app", mechanism, password=SECRET.get_secret_value())
                assert admin.alter_user_scram_credentials([user]) == {"app": None}
            known = dict[str, Any]()
            while len(known.get("app", {}).get("credential_infos", ())) < 2:
                time.sleep(0.1)  # until the broker has it from its controller
                known = admin.describe_user_scram_credentials()

    def user(self, mechanism: SaslMechanism) -> KafkaConnection:
        at = self.addresses["SASL_SSL"]
        return KafkaConnection(at, SecurityProtocol.SASL_SSL, mechanism, "app", SECRET, ca_file=self.pem)

    def connections(self) -> dict[str, KafkaConnection]:
        """All that get in."""
        self.token.write_text(token())
        plain = self.user(SaslMechanism.PLAIN)
        return {mechanism: self.user(mechanism) for mechanism in SaslMechanism if "SCRAM" in mechanism} | {
            "PLAIN": plain,
            "PLAIN without TLS": replace(
                plain,
                bootstrap=self.addresses["SASL_PLAINTEXT"],
                security_protocol=SecurityProtocol.SASL_PLAINTEXT,
                ca_file=None,
            ),
            "OAUTHBEARER": self.bearer(),
            "mutual TLS": KafkaConnection(
                self.addresses["SSL"], SecurityProtocol.SSL, ca_file=self.pem, certificate_file=self.pem
            ),
        }

    def bearer(self) -> KafkaConnection:
        return KafkaConnection(
            self.addresses["SASL_SSL"],
            SecurityProtocol.SASL_SSL,
            SaslMechanism.OAUTHBEARER,
            token_file=self.token,
            ca_file=self.pem,
        )


def token(subject: str = "app", lives_s: int = 3_600) -> str:
    """Unsigned, as the broker's default of OAUTHBEARER takes it."""
    now = int(time.time())
    parts = {"alg": "none"}, {"sub": subject, "iat": now, "exp": now + lives_s}
    return (
        ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        + "."
    )


@pytest.fixture(scope="module")
def secured(apache_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    secured = Secured(apache_jars, tmp_path_factory.mktemp("secured"))
    with secured.node:
        secured.add_scram_user()
        yield secured


def test_every_client_gets_in_every_way(secured: Secured) -> None:
    for name, kafka in secured.connections().items():
        topic = f"in-{uuid4().hex}"
        assert reachable(kafka, PATIENCE_S), name
        create_topics(kafka, [topic], 1)
        with closing(KafkaSink(kafka)) as sink, closing(KafkaSource(kafka)) as source:
            sink.append(topic, "u", name.encode())
            sink.flush(PATIENCE_S)
            assert source.end_offset(topic, 0) == 1
            source.seek(topic, 0, 0)
            assert [record.value for record in outcome(source, list)] == [name.encode()]


def test_who_is_refused_is_told_what_to_check(secured: Secured) -> None:
    good = secured.user(SaslMechanism.SCRAM_SHA_512)
    wrong = replace(good, password=SecretStr("open barley"))
    secured.token.write_text(token(lives_s=-10))
    cases = {
        "refuses user app: .*; check RECSYS_KAFKA_USER and RECSYS_KAFKA_PASSWORD": wrong,
        "refuses user nobody": replace(good, user="nobody"),
        "check RECSYS_KAFKA_CA_FILE": replace(good, ca_file=None),
        "Set RECSYS_KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL": KafkaConnection(good.bootstrap),
        "takes no SASL on this port": replace(
            good,
            bootstrap=secured.node.bootstrap,
            security_protocol=SecurityProtocol.SASL_PLAINTEXT,
            ca_file=None,
        ),
        "does not offer SCRAM-SHA-256": replace(
            good,
            bootstrap=secured.addresses["SASL_PLAINTEXT"],
            security_protocol=SecurityProtocol.SASL_PLAINTEXT,
            sasl_mechanism=SaslMechanism.SCRAM_SHA_256,
            ca_file=None,
        ),
        "check RECSYS_KAFKA_CERTIFICATE_FILE": KafkaConnection(
            secured.addresses["SSL"], SecurityProtocol.SSL, ca_file=secured.pem
        ),
        "check RECSYS_KAFKA_TOKEN_FILE": secured.bearer(),
    }
    for says, kafka in cases.items():
        with pytest.raises(AccessRefused, match=says):
            KafkaSource.once_reachable(kafka, Event(), bootstrap_timeout_ms=int(PATIENCE_S * 1_000))
    sink = KafkaSink(wrong)
    sink.append("any", "u", b"x")
    with pytest.raises(AccessRefused, match="refuses user app"):
        sink.flush(PATIENCE_S)
    with pytest.raises(AccessRefused):
        sink.close(PATIENCE_S)


def test_status_says_who_is_refused(secured: Secured, redis_url: str, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        redis_url=SecretStr(redis_url),
        kafka_bootstrap=secured.addresses["SASL_SSL"],
        kafka_security_protocol=SecurityProtocol.SASL_SSL,
        kafka_sasl_mechanism=SaslMechanism.PLAIN,
        kafka_user="app",
        kafka_password=SecretStr("open barley"),
        kafka_ca_file=secured.pem,
    )
    found = gather(settings, f"http://127.0.0.1:{free_port()}")["kafka"]
    assert not found["reachable"]
    assert "refuses user app" in found["error"]
    assert "barley" not in str(found)


def test_a_source_continues_when_its_token_was_renewed(secured: Secured) -> None:
    secured.token.write_text(token(lives_s=4))
    topic = f"token-{uuid4().hex}"
    create_topics(secured.node.connection, [topic], 1)
    with closing(KafkaSource(secured.bearer())) as source:
        source.seek(topic, 0, 0)
        assert isinstance(outcome(source, AccessRefused), AccessRefused)
        secured.token.write_text(token())
        with closing(KafkaSink(secured.node.connection)) as sink:
            sink.append(topic, "u", b"1")
        (record,) = outcome(source, list)
        assert record.value == b"1"


def outcome(source: KafkaSource, kind: type) -> Any:
    """The records of a poll, or how it failed: the first of this kind."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            found: object = source.poll(0.2, 10)
        except Unavailable as error:
            found = error
        if found and isinstance(found, kind):
            return found
    raise AssertionError(f"no {kind.__name__} within {PATIENCE_S} s")
