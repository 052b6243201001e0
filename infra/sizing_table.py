"""The editable sizing table (`infra/capacity/sizing.yaml`): what one process did, and what hardware costs."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from recsys.contracts.errors import InvalidConfig
from recsys.operator_files import read_yaml

TABLE = Path(__file__).parent / "capacity" / "sizing.yaml"


class Measured(BaseModel):
    """Throughput of one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_s: float = Field(gt=0)
    events_per_s: float = Field(gt=0)


class Prices(BaseModel):
    """Per unit and month."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    core: float = Field(ge=0)
    memory_gib: float = Field(ge=0)
    disk_gib: float = Field(ge=0)
    object_gib: float = Field(ge=0)


class SizingTable(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    measured: Measured
    utilisation: float = Field(gt=0, le=1)
    peak_factor: float = Field(ge=1)
    kafka_days: float = Field(gt=0)
    lake_days: float = Field(gt=0)
    kafka_replicas: int = Field(ge=1)
    redis_replicas: int = Field(ge=1)
    redis_headroom: float = Field(ge=1)
    impressions_per_request: int = Field(ge=0)
    prices: Prices


def read_table(path: Path = TABLE) -> SizingTable:
    """
    Raises:
        InvalidConfig: the file is missing, or a line is.
    """
    try:
        return read_yaml(path, SizingTable, InvalidConfig)
    except InvalidConfig as error:
        raise InvalidConfig(f"{error}; copy {TABLE}") from error
