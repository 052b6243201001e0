"""What the other routes take and give (pydantic). The hot ones are in `serving.api.wire`."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from recsys.contracts.changes import MAX_REGIONS
from recsys.contracts.events import MAX_CONTEXT_ENTRIES, MAX_TIME_MS
from recsys.contracts.languages import MAX_TAG_LENGTH, MAX_TITLES, language_tag
from recsys.contracts.text import MAX_TEXT_LENGTH, category_text, free_text, id_text, name_text
from recsys.experiments.growth import Growth
from recsys.experiments.release import Stage
from serving.api.wire import ID_SCHEMA, NAME_SCHEMA

# the rules are those of the stream and the imports; the document says of them what JSON schema can say
Id = Annotated[str, AfterValidator(id_text), WithJsonSchema(ID_SCHEMA)]
Text = Annotated[
    str, AfterValidator(free_text), WithJsonSchema({"type": "string", "maxLength": MAX_TEXT_LENGTH})
]
Category = Annotated[
    str, AfterValidator(category_text), WithJsonSchema(ID_SCHEMA | {"pattern": r"^[^|\x00-\x1f\x7f]+$"})
]
Creator = Annotated[str, AfterValidator(name_text), WithJsonSchema(NAME_SCHEMA)]
Language = Annotated[
    str,
    AfterValidator(language_tag),
    WithJsonSchema({"type": "string", "minLength": 2, "maxLength": MAX_TAG_LENGTH}),
]


_ITEM = {"item_id": "242", "title": "Kolya", "categories": ["Comedy"]}
_ENTRY = _ITEM | {"creator": "sverak", "created_ms": 1_750_000_000_000, "attributes": {"year": "1996"}}
_ENTRY |= {"titles": {"cs": "Kolja", "en": "Kolya"}}


def _example(**fields: Any) -> ConfigDict:
    """What the OpenAPI document shows of a model."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Problem(BaseModel):
    """RFC 9457 problem details. `detail` says what to do."""

    model_config = _example(
        type="about:blank",
        title="Not found",
        status=404,
        detail="item '7' is not in the catalogue; add it with POST /v1/items",
        request_id="0197f3d0-6a3b-7c4e-8f00-1a2b3c4d5e6f",
    )

    type: str
    title: str
    status: int
    detail: str
    request_id: str


class ItemLine(BaseModel):
    """An item as lists show it."""

    item_id: str
    title: str
    categories: list[str]


class SimilarItem(ItemLine):
    score: float


class SimilarItems(BaseModel):
    """Neighbours of an item, the nearest first."""

    model_config = _example(item_id="196", bundle="20260101-120000", items=[_ITEM | {"score": 0.87}])

    item_id: str
    bundle: str
    items: list[SimilarItem]


class PopularItems(BaseModel):
    """The most popular first."""

    model_config = _example(bundle="20260101-120000", items=[_ITEM])

    bundle: str
    items: list[ItemLine]


class ItemEntry(BaseModel):
    """A catalogue entry. It can be recommended within a second, before any model knows it."""

    model_config = ConfigDict(extra="forbid") | _example(**_ENTRY)

    item_id: Id
    title: Text = ""
    categories: list[Category] = Field([], max_length=32)
    creator: Creator = ""
    created_ms: int | None = Field(
        None, ge=0, lt=MAX_TIME_MS, description="Unix milliseconds; now when absent. Not recommended before"
    )
    attributes: dict[Text, Text] = Field({}, max_length=MAX_CONTEXT_ENTRIES)
    available_from_ms: int = Field(
        0, ge=0, lt=MAX_TIME_MS, description="Unix milliseconds; 0: always. In no list before"
    )
    available_until_ms: int = Field(
        0, ge=0, lt=MAX_TIME_MS, description="Unix milliseconds; 0: forever. In no list from then on"
    )
    regions: list[Category] = Field(
        [], max_length=MAX_REGIONS, description="where it may be shown; everywhere when empty"
    )
    titles: dict[Language, Text] = Field(
        {},
        max_length=MAX_TITLES,
        description="by language, for requests that name one; `title` for all others, by default the first of these",
    )


class ItemEntries(BaseModel):
    model_config = ConfigDict(extra="forbid") | _example(items=[_ENTRY])

    items: list[ItemEntry] = Field(min_length=1)


class Stored(BaseModel):
    model_config = _example(stored=1)

    stored: int


_ATTRIBUTES = {"age": "31", "gender": "F"}
_USER = {"user_id": "196", "attributes": _ATTRIBUTES}


class UserBody(BaseModel):
    """A user's static attributes. They replace all that were known."""

    model_config = ConfigDict(extra="forbid") | _example(attributes=_ATTRIBUTES)

    attributes: dict[Text, Text] = Field({}, max_length=MAX_CONTEXT_ENTRIES)


class UserEntry(UserBody):
    model_config = ConfigDict(extra="forbid") | _example(**_USER)

    user_id: Id


class UserEntries(BaseModel):
    model_config = ConfigDict(extra="forbid") | _example(users=[_USER])

    users: list[UserEntry] = Field(min_length=1)


class MergeBody(BaseModel):
    """An id whose history belongs to the user from now on, too: a visitor has logged in."""

    model_config = ConfigDict(extra="forbid") | _example(**{"from": "anon-123"})

    merged: Id = Field(alias="from", description="the other id, as of the visitor before the log-in")


class VisitLine(ItemLine):
    """One entry of a user's history."""

    type: str
    event_time_ms: int


class UserSummary(BaseModel):
    """What the platform holds of a user."""

    model_config = _example(
        user_id="196",
        known=True,
        history=[_ITEM | {"type": "click", "event_time_ms": 1_750_000_000_000}],
        seen=17,
        cells=212,
        attributes=_ATTRIBUTES,
    )

    user_id: str
    known: bool
    history: list[VisitLine] = Field(description="engaged items, the newest first")
    seen: int = Field(description="items that are not shown again, unless seen items may return")
    cells: int = Field(description="integers of state behind the user's features")
    attributes: dict[str, str] | None = Field(
        None, description="static attributes that were put; null: none were, so an import's are the latest"
    )
    merged: list[Id] = Field([], description="other ids whose history is the user's, too")


class BundleInfo(BaseModel):
    version: str
    active: bool
    created_ms: int | None = None
    items: int | None = None
    metrics: dict[str, float | None] = Field({}, description="null: undefined, such as the AUC of one label")
    refused: str = Field("", description="why it cannot be served")
    loaded_bytes: int = Field(0, description="estimated memory in this process; 0: not loaded")


class Bundles(BaseModel):
    active: str | None
    bundles: list[BundleInfo]


class Shadowed(BaseModel):
    model_config = _example(shadow="20260101-120000")

    shadow: str


class Unloaded(BaseModel):
    model_config = _example(loaded=["20260101-120000"])

    loaded: list[str]


class Activated(BaseModel):
    model_config = _example(active="20260102-120000", previous="20260101-120000")

    active: str
    previous: str | None


class ArmInfo(BaseModel):
    """One variant. `bundle` empty: the published one."""

    name: str
    share: float = Field(description="of the experiment's users")
    bundle: str
    settings: dict[str, Any]


class ExperimentInfo(BaseModel):
    """Arms on the users of one layer whose bucket is in [first, last)."""

    name: str
    layer: str
    salt: str
    first: float
    last: float
    arms: list[ArmInfo]


class ArmOutcomes(Growth):
    """As `recsys ab report` finds them, over time."""

    age_s: float = Field(description="since the lake was read for this answer")


class RunningExperiments(BaseModel):
    """`error`: why the file's latest content is not used. `arms`: of the requested user."""

    experiments: list[ExperimentInfo]
    error: str = ""
    user_id: str | None = None
    arms: dict[str, str] | None = None


class ReleaseCheck(BaseModel):
    """One check of the offline gate, on the newest day. Differences have 0 in `serving`."""

    name: str
    candidate: float | None
    serving: float | None
    problem: str = Field(description="why it failed; empty: it passed")


class Release(BaseModel):
    """The release that runs or ran last."""

    version: str
    serving: str = Field(description="the bundle that it is compared with")
    stage: Stage
    share: float = Field(description="of the users who see the candidate")
    since_ms: int = Field(description="when the stage began, Unix milliseconds")
    reason: str = Field(description="why it began")
    users: int = Field(description="of the canary, in this stage")
    p: dict[str, float] = Field(description="of each guardrail: the smallest always-valid p of harm so far")
    checks: list[ReleaseCheck]


class ReleaseLine(BaseModel):
    """A line of the audit log: a stage that began."""

    at: str
    version: str
    stage: str
    reason: str = ""
    users: int = Field(0, description="of the canary, in the stage before, at the end of a release")


class Releases(BaseModel):
    """`error`: why nothing can be said; a damaged file."""

    published: str | None
    waiting: str | None = Field(description="the next candidate")
    release: Release | None
    history: list[ReleaseLine] = Field(description="oldest first")
    error: str = ""


class DeviceArray(BaseModel):
    """An array; `data` is Base64 of its little-endian numbers."""

    dtype: str
    shape: list[int]
    data: str


class DeviceDelta(BaseModel):
    bytes: int
    sha256: str


class DeviceManifest(BaseModel):
    """What a device needs to know of a bundle's model."""

    bundle: str
    model: str = Field(description="its version: the SHA-256 of `GET /v1/edge/model/VERSION`")
    bytes: int
    deltas: dict[str, DeviceDelta] = Field(
        description="by the version of an earlier model: `GET /v1/edge/delta/EARLIER/VERSION`"
    )
    history: int = Field(description="the latest events that the model reads")
    types: dict[str, int] = Field(description="type of event → its number in a history")
    golden: dict[str, DeviceArray] = Field(description="inputs `in/NAME` and expected outputs `out/NAME`")


class Health(BaseModel):
    """`ready` means that requests are answered; `degraded` names what is missing meanwhile."""

    model_config = _example(
        ready=True,
        bundle="20260101-120000",
        degraded=[],
        checks=dict.fromkeys(
            ("keys", "bundle", "store", "kafka", "spool", "files", "item_features", "stream"), "ok"
        ),
        request_path="native",
        ranker="compiled",
        user_tower="compiled",
    )

    ready: bool
    bundle: str | None
    degraded: list[str]
    checks: dict[str, str]
    request_path: str = Field(description="native: compiled code serves; python, and why.")
    user_tower: str | None = Field(
        None, description="What runs its user tower in this process: compiled or onnxruntime."
    )
    ranker: str | None = Field(
        None, description="What runs the bundle's ranker: compiled, onnxruntime or remote."
    )
