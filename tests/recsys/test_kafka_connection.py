"""The settings of Kafka fit together, or say what to set."""

import pytest
from pydantic import SecretStr, ValidationError

from recsys.kafka_connection import KafkaConnection, SaslMechanism, SecurityProtocol
from recsys.settings import Settings

USER = {"KAFKA_USER": "app", "KAFKA_PASSWORD": "secret"}
SASL = {"KAFKA_BOOTSTRAP": "k:9093", "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "PLAIN"}
TLS = {"KAFKA_BOOTSTRAP": "k:9093", "KAFKA_SECURITY_PROTOCOL": "SSL"}
OAUTH = SASL | {"KAFKA_SASL_MECHANISM": "OAUTHBEARER"}


def settings(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"RECSYS_{name}", value)
    return Settings()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"KAFKA_BOOTSTRAP": "k:9092"},
        TLS | {"KAFKA_CA_FILE": "ca.pem", "KAFKA_CERTIFICATE_FILE": "me.pem", "KAFKA_KEY_PASSWORD": "x"},
        *(
            SASL | USER | {"KAFKA_SASL_MECHANISM": name}
            for name in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
        ),
        SASL | USER | {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"},
        SASL | {"KAFKA_USER": "app", "KAFKA_PASSWORD_FILE": "secret.txt"},
        OAUTH | {"KAFKA_TOKEN_FILE": "token"},
    ],
)
def test_what_fits_together_is_taken(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    kafka = settings(monkeypatch, values).kafka
    assert kafka.bootstrap == values.get("KAFKA_BOOTSTRAP", "")
    assert kafka.security_protocol == SecurityProtocol(values.get("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (TLS | {"KAFKA_BOOTSTRAP": ""}, "set RECSYS_KAFKA_BOOTSTRAP"),
        (
            TLS | {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
            "SASL_SSL needs RECSYS_KAFKA_SASL_MECHANISM: PLAIN, ",
        ),
        (
            SASL | USER | {"KAFKA_SECURITY_PROTOCOL": "SSL"},
            "PLAIN needs RECSYS_KAFKA_SECURITY_PROTOCOL=SASL_SSL",
        ),
        (SASL | {"KAFKA_PASSWORD": "x"}, "PLAIN needs RECSYS_KAFKA_USER"),
        (SASL | {"KAFKA_USER": "app"}, "PLAIN needs RECSYS_KAFKA_PASSWORD, or"),
        (SASL | USER | {"KAFKA_PASSWORD_FILE": "x"}, "set one of RECSYS_KAFKA_PASSWORD and"),
        (SASL | USER | {"KAFKA_TOKEN_FILE": "x"}, "unset RECSYS_KAFKA_TOKEN_FILE"),
        (OAUTH, "OAUTHBEARER needs RECSYS_KAFKA_TOKEN_FILE"),
        (OAUTH | USER | {"KAFKA_TOKEN_FILE": "x"}, "has a token, not a user"),
        (TLS | USER, "credentials need RECSYS_KAFKA_SASL_MECHANISM"),
        (
            {"KAFKA_BOOTSTRAP": "k:1", "KAFKA_CA_FILE": "ca.pem"},
            "certificates need RECSYS_KAFKA_SECURITY_PROTOCOL",
        ),
        (TLS | {"KAFKA_KEY_FILE": "me.key"}, "set RECSYS_KAFKA_CERTIFICATE_FILE"),
        (
            SASL | USER | {"KAFKA_SASL_MECHANISM": "GSSAPI"},
            "'SCRAM-SHA-512' or 'OAUTHBEARER'",
        ),
    ],
)
def test_what_does_not_fit_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], says: str
) -> None:
    with pytest.raises(ValidationError) as error:
        settings(monkeypatch, values)
    assert says in str(error.value)
    assert "secret" not in str(error.value)


def test_a_password_is_not_printed() -> None:
    kafka = KafkaConnection(
        "k:1", SecurityProtocol.SASL_SSL, SaslMechanism.PLAIN, "app", SecretStr("hunter2")
    )
    assert "app" in repr(kafka)
    assert "hunter2" not in repr(kafka)
