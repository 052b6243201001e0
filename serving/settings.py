"""Settings of the API process and of its recall and ranking processes."""

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from recsys.contracts.types import Device, Diversity
from recsys.settings import Settings


class Scope(StrEnum):
    """What an API key may do."""

    READ = "read"  # recommendations, similar items, users
    WRITE = "write"  # events and items
    ADMIN = "admin"  # bundles and everything else


class Role(StrEnum):
    """What a process of `recsys serve` does."""

    API = "api"
    RECALL = "recall"
    RANK = "rank"


class FeatureSource(StrEnum):
    """Which features a request reads, and from where."""

    STREAM = "stream"
    NIGHTLY = "nightly"
    DOCUMENTS = "documents"


class IndexKind(StrEnum):
    """Which index of the item vectors is searched."""

    BUNDLE = "bundle"
    EXACT = "exact"


class ServingSettings(Settings):
    """How the API listens, what it accepts, and how long it may take."""

    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port of the API; 0: any free port.")
    workers: int = Field(1, ge=1, le=64, description="Number of API processes that share the port.")
    threads: int = Field(2, ge=1, le=64, description="Request threads per API process.")

    batch: int = Field(
        1,
        ge=1,
        le=64,
        description="Maximum number of requests in one run of the user tower; 1: no batching.",
    )
    batch_wait_ms: float = Field(
        2.0,
        ge=0,
        le=100,
        description="Longest wait of a request for its batch, when others are expected.",
    )

    role: Role = Field(
        Role.API, description="api, or one part of the request path as its own process: recall or rank."
    )
    uds: Path | None = Field(None, description="Unix socket to listen on instead of host and port.")
    recall_url: str = Field(
        "",
        description="Recall process (user tower, index): http://host:port or unix:/path; empty: in process.",
    )
    rank_url: str = Field(
        "", description="Ranking process: http://host:port or unix:/path; empty: in process."
    )

    rank_device: Device = Field(
        Device.CPU,
        description="Device of `recsys serve --role rank`: cpu, or cuda (image serving-cuda).",
    )

    deadline_ms: int = Field(
        80,
        ge=1,
        le=60_000,
        description="Time budget of a recommendation; optional stages are skipped near its end.",
    )
    store_timeout_ms: int = Field(
        50, ge=1, le=60_000, description="How long a request waits for Redis before it continues without it."
    )
    max_in_flight: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Concurrent requests per API process; further ones get 503 with Retry-After.",
    )
    candidates: int = Field(500, ge=1, le=10_000, description="Candidates ranked per request.")
    default_k: int = Field(20, ge=1, le=1_000, description="Items per list when the request names no number.")
    max_k: int = Field(200, ge=1, le=1_000, description="Maximum number of items per list.")
    max_body_bytes: int = Field(
        1_048_576, ge=1_024, description="Maximum size of a request body; larger ones get 413."
    )
    max_batch: int = Field(
        1_000, ge=1, le=100_000, description="Maximum number of events, items or requests in a batch request."
    )

    cursor_s: int = Field(
        3_600, ge=1, description="How long the cursor of a paged list is valid, in seconds."
    )
    cursor_key: Path | None = Field(
        None,
        description="File of the key that signs cursors, shared by all processes; empty: created in home.",
    )
    idempotency_s: int = Field(
        86_400, ge=1, description="How long an Idempotency-Key is remembered, in seconds."
    )

    result_cache_ms: int = Field(
        500,
        ge=0,
        le=60_000,
        description="How long a list is reused while the user does nothing; 0: no result cache.",
    )
    result_cache_bytes: int = Field(67_108_864, ge=0, description="Memory for cached lists, per process.")
    vector_cache_bytes: int = Field(
        16_777_216, ge=0, description="Memory for cached user vectors, per process."
    )

    bundle_poll_s: float = Field(
        2.0, gt=0, description="Seconds between two checks of bundles/CURRENT for a new bundle."
    )
    bundle_bytes: int = Field(
        268_435_456,
        ge=0,
        description="Memory for loaded bundles, per process; unused bundles beyond it are unloaded.",
    )
    shadow_share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Share of requests mirrored to the shadow bundle; its responses are discarded.",
    )
    stale_after_s: float = Field(
        30.0, gt=0, description="Age of item features in seconds from which lists are marked as degraded."
    )
    rules: Path | None = Field(
        None, description="YAML file of business rules (pin, block, boost), reloaded when it changes."
    )
    experiments: Path | None = Field(
        None, description="YAML file of experiments (layers, arms, shares), reloaded when it changes."
    )
    spool: Path | None = Field(
        None,
        description="Folder for accepted records that Kafka has not acknowledged; empty: `spool` in home.",
    )
    spool_max_bytes: int = Field(
        1_073_741_824,
        ge=4_096,
        description="Maximum spool size per process; when it is full, events get 503.",
    )
    spool_fsync: bool = Field(
        False,
        description="Flush the spool to disk before each 202: survives a power failure, costs milliseconds.",
    )
    feature_source: FeatureSource = Field(
        FeatureSource.STREAM,
        description="stream: current features; nightly: those of `recsys features nightly`; documents: the same, but"
        " item features are read from Redis per request instead of from memory.",
    )
    diversity: Diversity = Field(
        Diversity.MMR, description="Reranking objective: mmr, dpp, or none (order of the scores)."
    )
    index: IndexKind = Field(
        IndexKind.BUNDLE,
        description="bundle: the bundle's index; exact: brute-force search, not with Milvus.",
    )
    clock: Path | None = Field(
        None,
        description="File of the simulated time, written by `recsys stream traffic --world`; empty: real time.",
    )
    index_shards: int = Field(
        1, ge=1, le=1_024, description="Number of index shards that one search scans in parallel."
    )
    milvus_uri: str = Field(
        "",
        description="Milvus server for the bundle's vectors (extra `milvus`); empty: FAISS, in process.",
    )
    milvus_token: str = Field("", repr=False, description="Milvus token: user:password or an API key.")
    repeat_carts: bool = Field(
        False, description="Recommend items that are in the cart and were not bought since."
    )
    repeat_after_days: float = Field(
        0.0, ge=0, description="Recommend a purchased item again after this many days; 0: never."
    )
    log_impressions: bool = Field(True, description="Write shown lists to the topic `impressions`.")

    api_keys: Path | None = Field(
        None, description="File of hashed API keys (`recsys serve --new-key`); empty: no key is required."
    )
    rate_per_key: float = Field(
        0.0,
        ge=0,
        description="Requests and events per second for each API key, over all processes; 0: no limit.",
    )
    burst_per_key: int = Field(
        1_000, ge=1, description="Requests and events that an API key may send at once after a pause."
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="Origins of other sites that may call the API from a browser."
    )

    @property
    def cursor_key_file(self) -> Path:
        return self.cursor_key or self.home / "cursor.key"

    @property
    def spool_folder(self) -> Path:
        return self.spool or self.home / "spool"
