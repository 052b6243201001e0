"""Settings of the API process. Environment variables with the prefix `RECSYS_`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from recsys.contracts.types import ENGAGEMENT, Device, Diversity, EventType
from recsys.settings import Settings


class Scope(StrEnum):
    """What an API key may do."""

    READ = "read"  # recommendations, similar items, users
    WRITE = "write"  # events and items
    ADMIN = "admin"  # bundles and everything else


class Guarded(StrEnum):
    """What needs no key unless it is named in `guarded`."""

    METRICS = "metrics"
    READYZ = "readyz"
    CONSOLE = "console"


class Role(StrEnum):
    API = "api"
    RECALL = "recall"
    RANK = "rank"


class FeatureSource(StrEnum):
    """Which features a request reads, and where the items' are."""

    STREAM = "stream"
    NIGHTLY = "nightly"
    DOCUMENTS = "documents"


class ItemTokensMode(StrEnum):
    """Whether lists have tokens, and what becomes of events without."""

    OFF = "off"  # none; any request that an event names is believed
    WATCH = "watch"  # lists have them, events without are counted and believed
    ON = "on"  # an event without counts as an action from elsewhere


class IndexKind(StrEnum):
    BUNDLE = "bundle"
    EXACT = "exact"


class ServingSettings(Settings):
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port of the API; 0: any free one.")
    workers: int = Field(1, ge=1, le=64, description="API processes that share the port.")
    threads: int = Field(2, ge=1, le=64, description="Threads of one API process that answer requests.")
    batch: int = Field(1, ge=1, le=64, description="Requests in one run of the user tower; 1: no batching.")
    batch_wait_ms: float = Field(2.0, ge=0, le=100, description="Longest wait of a request for a batch.")

    role: Role = Field(Role.API, description="api, or one service of the request path: recall, rank.")
    uds: Path | None = Field(None, description="Unix socket to listen on instead of host and port.")
    recall_url: str = Field("", description="Recall at http://host:port or unix:/path; empty: in process.")
    rank_url: str = Field("", description="Ranking at http://host:port or unix:/path; empty: in process.")
    rank_device: Device = Field(Device.CPU, description="Device of a ranking service: cpu or cuda.")

    deadline_ms: int = Field(
        80, ge=1, le=60_000, description="Time for one recommendation; then optional stages are skipped."
    )
    store_timeout_ms: int = Field(50, ge=1, le=60_000, description="Timeout of a request's reads from Redis.")
    max_in_flight: int = Field(
        64, ge=1, le=10_000, description="Requests inside one API process; more get 503 and Retry-After."
    )
    candidates: int = Field(500, ge=1, le=10_000, description="Candidates that are ranked for one request.")
    default_k: int = Field(20, ge=1, le=1_000, description="Items in an answer when the request has no k.")
    max_k: int = Field(200, ge=1, le=1_000, description="Most items that a request may ask for.")
    max_body_bytes: int = Field(1_048_576, ge=1_024, description="Largest request body; larger ones get 413.")
    max_batch: int = Field(1_000, ge=1, le=100_000, description="Most events, items or requests of a batch.")

    max_connections: int = Field(
        4_096,
        ge=16,
        description="Open connections of one process; for one more the longest idle one is closed.",
    )
    max_connections_per_client: int = Field(
        1_024, ge=8, description="The same for one client address (of IPv6: one /64); a proxy is one client."
    )
    max_header_bytes: int = Field(
        32_768,
        ge=1_024,
        description="Largest header of a request, chunk sizes included; longer ones get 431.",
    )
    header_s: float = Field(10.0, gt=0, description="Seconds for a request's header; then 408.")
    body_s: float = Field(
        30.0, gt=0, description="Seconds for a request's body, and for each part of an answer to be taken."
    )
    idle_s: float = Field(
        75.0,
        gt=0,
        description="Seconds that a connection may wait for its next request; proxies should wait less.",
    )

    cursor_s: int = Field(3_600, ge=1, description="Lifetime of the cursor of a paged list, in seconds.")
    cursor_key: Path | None = Field(
        None,
        description="Key file of cursors and item tokens, the same for all processes; empty: created in home.",
    )
    item_tokens: ItemTokensMode = Field(
        ItemTokensMode.OFF,
        description="on: each item of a list has a token, and an event is an outcome of the list with it alone;"
        " watch: events without are only counted.",
    )
    idempotency_s: int = Field(86_400, ge=1, description="Seconds that an Idempotency-Key is remembered.")

    result_cache_ms: int = Field(
        500, ge=0, le=60_000, description="Lifetime of a cached list of a user who acts often; 0: no cache."
    )
    result_cache_longest_ms: int = Field(
        2_000,
        ge=0,
        le=600_000,
        description="The same for a user who acts rarely: 1 % of the mean time between the latest 8 acts, in these"
        " bounds.",
    )
    result_cache_bytes: int = Field(67_108_864, ge=0, description="Memory for cached lists, per process.")
    vector_cache_bytes: int = Field(16_777_216, ge=0, description="Memory for user vectors, per process.")

    bundle_poll_s: float = Field(2.0, gt=0, description="Seconds between two polls for a published bundle.")
    bundle_bytes: int = Field(
        268_435_456, ge=0, description="Memory for loaded bundles, per process; unused ones are unloaded."
    )
    shadow_share: float = Field(0.1, gt=0, le=1, description="Share of requests mirrored to the shadow.")
    stale_after_s: float = Field(
        30.0, gt=0, description="Item features not refreshed for this long are named in `degraded`."
    )
    rules: Path | None = Field(
        None, description="YAML file of business rules (pin, block, boost); reloaded when it changes."
    )
    experiments: Path | None = Field(
        None, description="YAML file of experiments (layers, arms, shares); reloaded when it changes."
    )
    spool: Path | None = Field(
        None, description="Folder for accepted records on their way to Kafka; empty: `spool` in home."
    )
    spool_max_bytes: int = Field(
        1_073_741_824, ge=4_096, description="Largest spool of one process; when it is full, events get 503."
    )
    spool_fsync: bool = Field(
        False, description="Flush the spool to disk before each 202: survives power loss, costs milliseconds."
    )
    feature_source: FeatureSource = Field(
        FeatureSource.STREAM,
        description="stream: live features, the items' in memory; nightly: those of `recsys features nightly`,"
        " the items' in memory; documents: the same, the items' read from Redis with each request.",
    )
    diversity: Diversity = Field(
        Diversity.MMR, description="Rerank stage: mmr, dpp, fatigue (learnt), or none (by score)."
    )
    index: IndexKind = Field(
        IndexKind.BUNDLE, description="bundle: the bundle's own; exact: scan every vector, not in Milvus."
    )
    clock: Path | None = Field(
        None, description="Clock file of `recsys stream traffic --world` (simulated time); empty: real time."
    )
    index_shards: int = Field(1, ge=1, le=1_024, description="Parts of the index, searched in parallel.")
    milvus_uri: str = Field("", description="Milvus to search instead of FAISS in process (extra `milvus`).")
    milvus_token: SecretStr = Field(
        SecretStr(""), description="Token of that Milvus, user:password or API key."
    )
    repeats: dict[EventType, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="Seen items that may return, as JSON: type of event → days since the latest visit, such as"
        ' {"add_to_cart": 0, "purchase": 30}; others never. Empty: as the bundle has learnt.',
    )
    log_impressions: bool = Field(True, description="Write what was shown to the impressions topic.")

    api_keys: Path | None = Field(
        None, description="File of hashed API keys (`recsys serve --new-key`); empty: no key is needed."
    )
    guarded: tuple[Guarded, ...] = Field(
        (), description="Also behind a key (scope read), as a JSON list: metrics, readyz, console."
    )
    rate_per_key: float = Field(
        0.0,
        ge=0,
        description="Requests per second per API key, over all processes; of a batch, each record counts; 0: no limit.",
    )
    burst_per_key: int = Field(
        1_000, ge=1, description="Requests and records of a key at once after a pause."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Names in the `Host` header that are answered, as a JSON list; empty: any. Others get 400.",
    )
    cors_origins: tuple[str, ...] = Field((), description="Origins whose pages may call the API.")

    @field_validator("repeats")
    @classmethod
    def _of_engagement(cls, repeats: dict[EventType, float] | None) -> dict[EventType, float] | None:
        if wrong := [str(kind) for kind in repeats or () if kind not in ENGAGEMENT]:
            known = ", ".join(sorted(ENGAGEMENT))
            raise ValueError(f"{', '.join(wrong)}: no item is seen by it; the types are {known}")
        return repeats

    @model_validator(mode="after")
    def _guards_need_keys(self) -> Self:
        if self.guarded and self.api_keys is None:
            raise ValueError("RECSYS_GUARDED needs keys: set RECSYS_API_KEYS")
        return self

    @property
    def cursor_key_file(self) -> Path:
        return self.cursor_key or self.home / "cursor.key"

    @property
    def spool_folder(self) -> Path:
        return self.spool or self.home / "spool"
