"""Import, API and stream take the same ids, categories and names, in the same form; and every id travels in a path."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys.client.clients import Client
from recsys.contracts.changes import parse_item_change
from recsys.contracts.errors import InvalidEvent
from recsys.contracts.text import id_text
from recsys.contracts.types import Item, Topic, User
from recsys.datasets.mapper import MappedDataset
from recsys.datasets.mapping import Mapping
from recsys.items.item_table import table_items
from serving.api.routes.items import _item
from serving.api.schemas import ItemEntry
from tests.serving.conftest import Api

MAPPING = Mapping.model_validate(
    {
        "events": {
            "files": ["-"],
            "user": "u",
            "item": "i",
            "time": {"column": "t"},
            "events": [{"type": "click"}],
        },
        "items": {
            "files": ["items.parquet"],
            "item": "item_id",
            "title": "title",
            "categories": "category",
            "separator": "\x1f",
            "creator": "creator",
            "attributes": {"note": "note"},
            "titles": {"de": "note", "en": "creator"},
        },
    }
)
characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \u00a0\u200b\u0301\u202e\n|/.")
texts = st.text(characters, max_size=5) | st.sampled_from(
    ["x" * 128, "x" * 129, "x" * 512, "x" * 513, "é" * 512]
)
rows = st.tuples(texts, texts, texts, texts, texts)


def by_import(row: tuple[str, ...]) -> Item | None:
    names = ("item_id", "title", "category", "creator", "note")
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(
            pa.table({n: [cell] for n, cell in zip(names, row, strict=True)}), f"{folder}/items.parquet"
        )
        batches = list(MappedDataset("d", Path(folder), MAPPING).items())
    assert sum(batch.rows.num_rows + len(batch.broken) for batch in batches) == 1
    return next((item for batch in batches for item in table_items(batch.rows)), None)


def by_stream(entry: dict[str, Any]) -> Item | None:
    try:
        return parse_item_change({"item": entry, "changed_ms": 1}).item
    except InvalidEvent:
        return None


def by_api(entry: dict[str, Any]) -> Item | None:
    try:
        known = ItemEntry.model_validate(entry)
    except ValidationError:
        return None
    return replace(_item(known, now_ms=0), created_ms=0)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@example(("..", "", "", "", ""))
@example(("i", "", "Drama\n", "", ""))
@example(("i", "", "\u3000", "", ""))
@example(("cafe\u0301", "a\nb", "Sci\u00a0Fi", "\u200b", "\u3000"))
@given(rows)
def test_what_one_door_takes_all_take_in_the_same_form(row: tuple[str, ...]) -> None:
    item_id, title, category, creator, note = row
    assume("\x1f" not in category)  # there are two categories in the cell of a table
    entry: dict[str, Any] = {"item_id": item_id, "title": title, "creator": creator}
    entry |= {
        "categories": [category] if category.strip() else [],
        "attributes": {"note": note} if note else {},
        "titles": {"de": note, "en": creator},
    }
    found = by_stream(entry)
    assert by_api(entry) == found
    assert by_import(row) == found


IDS = ("a/b", "/", "//", "a/similar", "../x", "...", "%2F", "a%2fb", "?k=1#x", "a b", "日本", "\\", "e\u0301")


@pytest.fixture
def client(api: Api, tmp_path: Path) -> Iterator[Client]:
    """A client of the API under uvicorn: the server, too, has a part in what a path says."""
    server = uvicorn.Server(uvicorn.Config(api.client.app, log_level="warning", lifespan="off"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "api"))
    listener.listen()
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    with Client("http://api", transport=httpx.HTTPTransport(uds=str(tmp_path / "api"))) as client:
        yield client
    server.should_exit = True
    thread.join()


def test_every_id_travels_in_a_path(api: Api, client: Client) -> None:
    for raw in IDS:
        id_ = id_text(raw)
        client.put_items([Item(raw, created_ms=1)])
        assert dict(api.store.inner.catalogue([id_])) == {id_: Item(id_, created_ms=1)}
        client.put_user(User(raw, {"age": "31"}))
        client.merge_user(raw, merged := f"anon-{IDS.index(raw)}")
        user = client.user(raw)
        assert (user["user_id"], user["attributes"], user["merged"]) == (id_, {"age": "31"}, [merged])
        client.delete_item(raw)
        assert dict(api.store.inner.catalogue([id_]))[id_] is None
        client.forget_user(raw)
        assert client.user(raw)["attributes"] is None
    assert [change["deleted"] for change in api.logged(Topic.ITEMS)[1::2]] == [id_text(raw) for raw in IDS]
