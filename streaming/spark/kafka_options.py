"""How Spark's Kafka source connects, from the settings of every other client.

Certificates and passwords travel as values: what reads Kafka in executors needs no files.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificates
from pydantic import SecretStr

from recsys.contracts.errors import InvalidConfig
from recsys.kafka_connection import KafkaConnection, SaslMechanism
from streaming.log import Partition

_LOGIN = "org.apache.kafka.common.security"


def source_options(
    kafka: KafkaConnection, starts: Mapping[Partition, int], max_records: int
) -> dict[str, str]:
    """Options of a stream that reads these partitions from these offsets on, at most `max_records` at once.
    Raises `InvalidConfig`: a file cannot be read, or Spark has no such way in."""
    offsets: dict[str, dict[str, int]] = {}
    for (topic, partition), offset in sorted(starts.items()):
        offsets.setdefault(kafka.in_kafka(topic), {})[str(partition)] = offset
    return {
        "assign": json.dumps({topic: [int(number) for number in found] for topic, found in offsets.items()}),
        "startingOffsets": json.dumps(offsets),
        "maxOffsetsPerTrigger": str(max_records),
        "includeHeaders": "true",
        "failOnDataLoss": "true",
        "groupIdPrefix": kafka.in_kafka("feature-worker-spark"),
        "kafka.isolation.level": "read_committed",
        # a task reads records that are there, but may have to wait for an answer to an earlier request first
        "kafka.fetch.max.wait.ms": "20",
        **{f"kafka.{name}": value for name, value in client_options(kafka).items()},
    }


def client_options(kafka: KafkaConnection) -> dict[str, str]:
    """Of Kafka's Java client. Raises as `source_options`."""
    options = {"bootstrap.servers": kafka.bootstrap, "security.protocol": str(kafka.security_protocol)}
    if kafka.ca_file is not None:
        options |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": _certificates(kafka.ca_file)}
    if kafka.certificate_file is not None:
        options |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": _certificates(kafka.certificate_file),
            "ssl.keystore.key": _key(kafka.key_file or kafka.certificate_file, kafka.key_password),
        }
    if kafka.sasl_mechanism is not None:
        options |= {"sasl.mechanism": str(kafka.sasl_mechanism), "sasl.jaas.config": _login(kafka)}
    return options


def _login(kafka: KafkaConnection) -> str:
    if kafka.sasl_mechanism is SaslMechanism.OAUTHBEARER:
        raise InvalidConfig(
            "the Spark engine signs in to Kafka with PLAIN, SCRAM or a certificate; for OAUTHBEARER use the worker"
        )
    password = (
        _text(kafka.password_file).strip() if kafka.password_file else kafka.password.get_secret_value()
    )
    module = (
        "plain.PlainLoginModule" if kafka.sasl_mechanism is SaslMechanism.PLAIN else "scram.ScramLoginModule"
    )
    return f"{_LOGIN}.{module} required username={_quoted(kafka.user)} password={_quoted(password)};"


def _quoted(value: str) -> str:
    """A value in JAAS's syntax."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _certificates(file: Path) -> str:
    """Those of a PEM file, without the private key that may be in it, too."""
    try:
        found = load_pem_x509_certificates(_text(file).encode())
    except ValueError as error:
        raise InvalidConfig(f"{file} has no certificate in PEM: {error}") from error
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in found)


def _key(file: Path, password: SecretStr) -> str:
    """A private key in the one form that Java reads."""
    try:
        key = load_pem_private_key(_text(file).encode(), password.get_secret_value().encode() or None)
    except (ValueError, TypeError) as error:
        raise InvalidConfig(f"the private key in {file}: {error}; check RECSYS_KAFKA_KEY_PASSWORD") from error
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{file}: {error}") from error
