"""How Spark reaches Kafka, and where it finds its connector."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import SecretStr

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Topic
from recsys.kafka_connection import KafkaConnection, SaslMechanism, SecurityProtocol
from streaming.log import Partition
from streaming.spark.connector import connector
from streaming.spark.kafka_options import client_options, source_options
from tests.certificates import self_signed


def test_a_stream_begins_at_the_offset_of_each_partition() -> None:
    starts: dict[Partition, int] = {(Topic.EVENTS, 10): 7, (Topic.EVENTS, 2): 0, (Topic.ITEMS, 0): 12}
    options = source_options(KafkaConnection("a:1,b:2"), starts, 500)
    assert json.loads(options["assign"]) == {"events": [2, 10], "items": [0]}
    assert json.loads(options["startingOffsets"]) == {"events": {"2": 0, "10": 7}, "items": {"0": 12}}
    assert options["kafka.bootstrap.servers"] == "a:1,b:2"
    assert options["kafka.isolation.level"] == "read_committed"
    prefixed = source_options(KafkaConnection("a:1", topic_prefix="shop-a."), starts, 500)
    assert json.loads(prefixed["assign"]).keys() == {"shop-a.events", "shop-a.items"}
    assert (options["failOnDataLoss"], options["includeHeaders"]) == ("true", "true")


def login(mechanism: SaslMechanism, password: str = "", file: Path | None = None) -> dict[str, str]:
    protocol = SecurityProtocol.SASL_PLAINTEXT
    return client_options(
        KafkaConnection("a:1", protocol, mechanism, "app", SecretStr(password), password_file=file)
    )


def test_passwords_are_quoted_as_java_reads_them(tmp_path: Path) -> None:
    plain = login(SaslMechanism.PLAIN, r'a"b\c')
    assert plain["sasl.mechanism"] == "PLAIN"
    assert plain["sasl.jaas.config"] == (
        "org.apache.kafka.common.security.plain.PlainLoginModule required"
        r' username="app" password="a\"b\\c";'
    )
    file = tmp_path / "password"
    file.write_text("from a file\n")
    scram = login(SaslMechanism.SCRAM_SHA_512, file=file)
    assert scram["sasl.mechanism"] == "SCRAM-SHA-512"
    assert ".scram.ScramLoginModule required " in scram["sasl.jaas.config"]
    assert 'password="from a file";' in scram["sasl.jaas.config"]


def test_certificates_travel_as_values_and_keys_apart_from_them(tmp_path: Path) -> None:
    pem = self_signed(tmp_path / "me.pem", b"secret")
    kafka = KafkaConnection(
        "a:1", SecurityProtocol.SSL, ca_file=pem, certificate_file=pem, key_password=SecretStr("secret")
    )
    options = client_options(kafka)
    certificate = pem.read_text().partition("-----BEGIN ENCRYPTED")[0]
    assert options["ssl.truststore.certificates"] == options["ssl.keystore.certificate.chain"] == certificate
    assert options["ssl.truststore.type"] == options["ssl.keystore.type"] == "PEM"
    assert options["ssl.keystore.key"].startswith(
        "-----BEGIN PRIVATE KEY-----"
    )  # PKCS 8: Java knows no other
    assert load_pem_private_key(options["ssl.keystore.key"].encode(), None)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"ca_file": Path("absent.pem")}, "absent.pem"),
        ({"ca_file": Path("pyproject.toml")}, "no certificate"),
        ({"key_password": SecretStr("wrong")}, "RECSYS_KAFKA_KEY_PASSWORD"),
        ({"sasl_mechanism": SaslMechanism.OAUTHBEARER}, "OAUTHBEARER"),
    ],
)
def test_what_cannot_be_used_says_why(tmp_path: Path, change: dict[str, object], names: str) -> None:
    pem = self_signed(tmp_path / "me.pem", b"secret")
    given = {"certificate_file": pem, "key_password": SecretStr("secret")} | change
    with pytest.raises(InvalidConfig, match=names):
        client_options(KafkaConnection("a:1", SecurityProtocol.SASL_SSL, **given))  # type: ignore[arg-type]


def test_the_connector_is_of_sparks_version(tmp_path: Path) -> None:
    spark = version("pyspark")
    assert connector() == ("spark.jars.packages", f"org.apache.spark:spark-sql-kafka-0-10_2.13:{spark}")
    (tmp_path / "spark-sql-kafka-0-10_2.13-3.5.0.jar").touch()
    with pytest.raises(InvalidConfig, match=f"no spark-sql-kafka-0-10_2.13-{spark}.jar"):
        connector(tmp_path)
    (tmp_path / f"org.apache.spark_spark-sql-kafka-0-10_2.13-{spark}.jar").touch()
    name, jars = connector(tmp_path)
    assert name == "spark.jars" and len(jars.split(",")) == 2
