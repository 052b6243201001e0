"""Settings that several packages share: environment variables with the prefix `RECSYS_`."""

import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.topic_rules import TopicRules
from recsys.contracts.types import MS_PER_HOUR, MS_PER_MINUTE
from recsys.kafka_connection import KafkaConnection, SaslMechanism, SecurityProtocol
from recsys.native import Native

PREFIX = "RECSYS_"


class LocalKafka(StrEnum):
    """The broker that is started where no Kafka is named."""

    MEMORY = "memory"
    APACHE = "apache"


class Settings(BaseSettings):
    """Addresses and folders. Packages extend this class; every field needs a description."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    home: Path = Field(
        Path("var"), description="Folder for everything that is written: lake, features, models, bundles."
    )
    lake_store: str = Field(
        "",
        description="Where `recsys lake push` and `pull` keep the lake (extra `s3`), such as s3://bucket/lake; keys,"
        " region and endpoint are AWS's own variables.",
    )
    bundle_keys: Path | None = Field(
        None,
        description="File of public keys (`recsys bundle keygen`): only bundles that one of them signed are loaded,"
        " copied or published; empty: no signature is needed.",
    )
    bundle_signing_key: Path | None = Field(
        None,
        description="File of the private key that signs the bundles published here; empty: none is signed.",
    )
    native: Native = Field(
        Native.AUTO,
        description="Compiled code for requests and the feature worker: auto (where it was built), on (refuse to start"
        " without), off (Python).",
    )
    redis_url: SecretStr = Field(
        SecretStr(""),
        description="URL of a Redis server, a cluster (`redis+cluster://`) or Sentinels (`redis+sentinel://`), by TLS"
        " with `rediss`; empty: the embedded Redis that `recsys up` started.",
    )
    redis_namespace: str = Field(
        "recsys",
        min_length=1,
        description="Key prefix in Redis: separates several systems, or an old and a new store, on one server.",
    )
    kafka_bootstrap: str = Field(
        "",
        description="Addresses of some of Kafka's brokers, host:port, separated by commas; empty: the local broker that"
        " `recsys up` started.",
    )
    local_kafka: LocalKafka = Field(
        LocalKafka.MEMORY,
        description="The local broker: memory (up at once, its log ends with it), or apache (Apache Kafka, needs Java;"
        " its log stays in `RECSYS_HOME/kafka`).",
    )
    kafka_jars: Path | None = Field(
        None,
        description="Folder with the jars of Apache Kafka for the local broker; empty: of `KAFKA_HOME`, else from Maven"
        " Central, once.",
    )
    kafka_topic_prefix: str = Field(
        "",
        max_length=100,
        pattern=r"^[A-Za-z0-9._-]*$",
        description="Before the name of every topic and consumer group, such as `shop-a.`: separates several systems on"
        " one Kafka.",
    )
    kafka_security_protocol: SecurityProtocol = Field(
        SecurityProtocol.PLAINTEXT, description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    kafka_sasl_mechanism: SaslMechanism | None = Field(
        None,
        description="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER; with SASL_SSL or SASL_PLAINTEXT.",
    )
    kafka_user: str = Field("", description="User of PLAIN and SCRAM.")
    kafka_password: SecretStr = Field(SecretStr(""), description="The user's password.")
    kafka_password_file: Path | None = Field(
        None, description="File of the password, instead of `RECSYS_KAFKA_PASSWORD`."
    )
    kafka_token_file: Path | None = Field(
        None,
        description="File of the token of OAUTHBEARER, read at each authentication: another process renews it.",
    )
    kafka_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that sign the brokers' certificates; empty: the system's.",
    )
    kafka_certificate_file: Path | None = Field(
        None, description="PEM file of this client's certificate, for brokers that ask for one (mutual TLS)."
    )
    kafka_key_file: Path | None = Field(
        None, description="PEM file of its private key; empty: in the certificate's file."
    )
    kafka_key_password: SecretStr = Field(SecretStr(""), description="Password of an encrypted private key.")
    database_url: SecretStr = Field(
        SecretStr(""),
        description="Database that is the source of truth for items and users (extra `database`): sqlite (a file in"
        " home), or a URL of sqlite, postgresql, mysql or mariadb; empty: none, changes go straight to the topics.",
    )
    database_timeout_s: float = Field(
        5.0, gt=0, le=600, description="Time to connect to that database, and for each statement."
    )
    partitions: int = Field(
        4, ge=1, le=1024, description="Partitions of each topic; more later: `recsys topics grow`."
    )
    kafka_replication: int = Field(
        0, ge=0, description="Replicas of new topics; 0: three, or as many as there are brokers."
    )
    kafka_min_insync: int = Field(
        0,
        ge=0,
        description="Replicas that must have a record before Kafka acknowledges it; 0: one less than there are, at"
        " least one.",
    )
    kafka_retention_hours: float = Field(
        168.0,
        ge=0,
        description="How long Kafka keeps records, and deletions of compacted topics: longer than a reader may be away;"
        " 0: for ever.",
    )
    late_hours: float = Field(
        24.0, gt=0, description="Event time for which ids are remembered; older events are dead letters."
    )
    future_minutes: float = Field(
        5.0, ge=0, description="Event times further ahead of the log's clock are set to the log's time."
    )
    trust: bool = Field(
        True,
        description="Items' features online, and what is trained on, count clicks as far as impressions explain them"
        " (docs/trust.md); false: every click counts.",
    )
    spark_master: str = Field(
        "local[*]",
        min_length=1,
        description="Spark master of the batch jobs: local[2], spark://host:7077, yarn or k8s://…; a cluster gets this"
        " code with the job, and needs the lake on a path that all its machines see.",
    )
    privacy_epsilon: float = Field(
        10.0,
        gt=0,
        description="Budget of private trainings and published counts together, per user (docs/privacy.md).",
    )
    privacy_delta: float = Field(
        1e-6, gt=0, lt=0.01, description="Its delta; below one over the number of users."
    )
    log_level: str = Field("info", description="debug, info, warning or error.")
    traces: str = Field(
        "", description="Exporter of OpenTelemetry traces: console, or otlp (extra `otel`); empty: off."
    )

    @model_validator(mode="after")
    def _kafka_fits_together(self) -> Self:
        if problems := list(self.kafka.problems()):
            raise ValueError("; ".join(problems))
        return self

    @property
    def kafka(self) -> KafkaConnection:
        """How every client of Kafka connects."""
        return KafkaConnection(
            bootstrap=self.kafka_bootstrap,
            security_protocol=self.kafka_security_protocol,
            sasl_mechanism=self.kafka_sasl_mechanism,
            user=self.kafka_user,
            password=self.kafka_password,
            password_file=self.kafka_password_file,
            token_file=self.kafka_token_file,
            ca_file=self.kafka_ca_file,
            certificate_file=self.kafka_certificate_file,
            key_file=self.kafka_key_file,
            key_password=self.kafka_key_password,
            topic_prefix=self.kafka_topic_prefix,
        )

    @property
    def time_rules(self) -> TimeRules:
        """The rules for event times, the same for worker, archiver and API."""
        return TimeRules(int(self.future_minutes * MS_PER_MINUTE), int(self.late_hours * MS_PER_HOUR))

    @property
    def topic_rules(self) -> TopicRules:
        """How topics are created, and what `recsys topics check` compares them with."""
        retention_ms = int(self.kafka_retention_hours * MS_PER_HOUR)
        return TopicRules(self.kafka_replication, self.kafka_min_insync, retention_ms)

    @property
    def lake(self) -> Path:
        return self.home / "lake"

    @property
    def bundles(self) -> Path:
        return self.home / "bundles"

    @property
    def features(self) -> Path:
        return self.home / "features"

    @property
    def privacy_ledger(self) -> Path:
        return self.home / "privacy.json"

    @property
    def checkpoints(self) -> Path:
        return self.home / "checkpoints"


def refuse_unknown(classes: Iterable[type[BaseSettings]], environ: Mapping[str, str] = os.environ) -> None:
    """Refuse `RECSYS_*` variables that no settings class knows, so that a misspelt one is not ignored. Raises
    `InvalidConfig`: naming each unknown variable."""
    known = {f"{PREFIX}{name}".upper() for cls in classes for name in cls.model_fields}
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise InvalidConfig(
            f"unknown setting {', '.join(unknown)}: docs/configuration.md lists the known ones"
        )
