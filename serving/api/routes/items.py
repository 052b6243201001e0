"""Items: their neighbours, and changes of the catalogue between two bundles."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from recsys.contracts.changes import ItemChange
from recsys.contracts.filters import MAX_LENGTH, filter_of
from recsys.contracts.languages import default_title, title_in, titles_of
from recsys.contracts.types import Item
from serving.api.accepted_changes import IdempotencyKey
from serving.api.cacheable import NOT_MODIFIED, IfNoneMatch, renewed
from serving.api.dependencies import (
    Changes,
    Clock,
    Host,
    Keyed,
    Reader,
    Settings,
    UncountedWriter,
    Writer,
)
from serving.api.idempotency import Attempt
from serving.api.languages import SpokenHere
from serving.api.schemas import (
    Creator,
    Id,
    ItemEntries,
    ItemEntry,
    ItemLine,
    PopularItems,
    SimilarItem,
    SimilarItems,
    Stored,
)
from serving.api.security import Caller
from serving.api.wire import FILTER
from serving.problems import Problem

router = APIRouter(tags=["items"])

ItemId = Annotated[Id, Path(description="the item's id")]


@router.get("/v1/popular", response_model=PopularItems, responses=NOT_MODIFIED)
def popular(
    caller: Reader,
    host: Host,
    clock: Clock,
    spoken: SpokenHere,
    k: Annotated[int, Query(ge=1, le=1_000, description="items wanted")] = 20,
    region: Annotated[Creator, Query(description="where the request comes from")] = "",
    if_none_match: IfNoneMatch = "",
) -> Response:
    """What is popular now, the most popular first: the same for all readers of a language, so caches may answer."""
    runtime, title = host.require(), title_in(spoken.languages)
    rows = runtime.artifacts.popular(k, clock(), region)
    content = PopularItems(
        bundle=runtime.bundle.manifest.version,
        items=[
            ItemLine(item_id=i.item_id, title=title(i), categories=list(i.categories))
            for i in map(runtime.catalogue.item, rows.tolist())
        ],
    )
    by_language = spoken.by_header and runtime.catalogue.has_titles
    return renewed(caller, content, runtime.bundle.manifest.version, if_none_match, by_language)


@router.get("/v1/items/{item_id:path}/similar", response_model=SimilarItems, responses=NOT_MODIFIED)
def similar(
    caller: Reader,
    host: Host,
    clock: Clock,
    spoken: SpokenHere,
    item_id: ItemId,
    k: Annotated[int, Query(ge=1, le=1_000, description="neighbours wanted")] = 20,
    filter: Annotated[str, Query(max_length=MAX_LENGTH, description=FILTER)] = "",
    region: Annotated[Creator, Query(description="where the request comes from")] = "",
    if_none_match: IfNoneMatch = "",
) -> Response:
    """The nearest items of an item: those that the same users engage with, filled up by vector distance. An item that
    is newer than the bundle has neighbours by its vector."""
    runtime, title = host.require(), title_in(spoken.languages)
    catalogue = runtime.catalogue
    row = catalogue.rows.get(item_id)
    if row is None or not catalogue.alive[row]:
        raise Problem(404, f"item {item_id!r} is not in the catalogue; add it with POST /v1/items")
    asked = filter_of(filter)
    rows, scores = runtime.artifacts.similar(row, k, clock(), asked, region)
    content = SimilarItems(
        item_id=item_id,
        bundle=runtime.bundle.manifest.version,
        items=[
            SimilarItem(item_id=i.item_id, title=title(i), categories=list(i.categories), score=float(score))
            for i, score in zip((catalogue.item(int(r)) for r in rows), scores, strict=True)
        ],
    )
    by_language = spoken.by_header and runtime.catalogue.has_titles
    return renewed(caller, content, runtime.bundle.manifest.version, if_none_match, by_language)


async def _sent(
    caller: UncountedWriter, access: Keyed, settings: Settings, body: ItemEntry | ItemEntries
) -> tuple[Caller, list[ItemEntry]]:
    entries = body.items if isinstance(body, ItemEntries) else [body]
    await access.count_records(caller, "items", len(entries), settings.max_batch)
    return caller, entries


Sent = Annotated[tuple[Caller, list[ItemEntry]], Depends(_sent)]


@router.post("/v1/items", status_code=202, response_model=Stored)
def put_items(sent: Sent, changes: Changes, idempotency_key: IdempotencyKey = "") -> Response:
    """Add or replace one item or many. They can be recommended within a second, before any model knows them. Each item
    counts against the key's rate."""
    caller, entries = sent

    def put(attempt: Attempt) -> int:
        now_ms, repeated = attempt
        items = [_item(entry, now_ms) for entry in entries]
        changes.accept_items([ItemChange(item.item_id, item, now_ms) for item in items], repeated)
        return len(items)

    content = b"".join(entry.model_dump_json().encode() for entry in entries)
    return changes.store_once(caller.name, idempotency_key, "put items", content, put)


@router.delete("/v1/items/{item_id:path}", status_code=204)
def delete_item(
    caller: Writer, changes: Changes, item_id: ItemId, idempotency_key: IdempotencyKey = ""
) -> Response:
    """Take an item out of every list. Its statistics stay, for when it comes back."""

    def delete(attempt: Attempt) -> bytes:
        changes.accept_items([ItemChange(item_id, None, attempt.now_ms)], attempt.repeated)
        return b""

    return changes.once(caller.name, idempotency_key, "delete item", item_id.encode(), delete, status=204)


def _item(entry: ItemEntry, now_ms: int) -> Item:
    titles = titles_of(entry.titles.items())
    return Item(
        item_id=entry.item_id,
        title=default_title(entry.title, titles),
        categories=tuple(entry.categories),
        creator=entry.creator,
        created_ms=now_ms if entry.created_ms is None else entry.created_ms,
        attributes=entry.attributes,
        available_from_ms=entry.available_from_ms,
        available_until_ms=entry.available_until_ms,
        regions=tuple(entry.regions),
        titles=titles,
    )
