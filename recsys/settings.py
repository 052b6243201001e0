"""Settings that several packages share. Environment variables with the prefix `RECSYS_`; unknown ones are refused."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys.contracts.errors import InvalidConfig

PREFIX = "RECSYS_"


class Settings(BaseSettings):
    """Where things are. Packages extend this class with their own fields; every field has a description."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Path = Field(
        Path("var"), description="Folder of everything that is written: lake, features, bundles."
    )
    redis_url: str = Field("", description="Redis to use; empty: the embedded one that `recsys up` started.")
    redis_namespace: str = Field(
        "recsys",
        min_length=1,
        description="Keeps several systems, or states to be swapped, apart on one Redis.",
    )
    kafka_bootstrap: str = Field("", description="Kafka to use, host:port; empty: the embedded one.")
    partitions: int = Field(
        4, ge=1, le=1024, description="Partitions of each topic; fixed once events exist."
    )
    log_level: str = Field("info", description="debug, info, warning or error.")
    traces: str = Field(
        "", description="Where OpenTelemetry traces go: console, or otlp (extra `otel`); empty: nowhere."
    )

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
    def checkpoints(self) -> Path:
        return self.home / "checkpoints"


def refuse_unknown(classes: Iterable[type[BaseSettings]], environ: Mapping[str, str] = os.environ) -> None:
    """Refuse `RECSYS_*` variables that no settings class has: a misspelt setting must not be ignored.

    Raises:
        InvalidConfig: naming each unknown variable.
    """
    known = {f"{PREFIX}{name}".upper() for cls in classes for name in cls.model_fields}
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise InvalidConfig(
            f"unknown setting {', '.join(unknown)}: see the table of settings in README.md for the known ones"
        )
