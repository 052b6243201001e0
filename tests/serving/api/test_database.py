"""The API with a database as the source of truth: changes are in its tables and its outbox, not in the spool."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from recsys.catalogue_db.database import CatalogueDatabase
from recsys.catalogue_db.outbox import Message
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import Item, Topic, User
from recsys.store.replays import MemoryReplays
from serving import assembly
from serving.settings import ServingSettings
from tests.databases import opened, sqlite_url
from tests.serving.conftest import NOW_MS, Api

ITEM = {"item_id": "new", "title": "New", "categories": ["Drama"]}
STORED = Item("new", "New", ("Drama",), "", NOW_MS)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[CatalogueDatabase]:
    made = opened(sqlite_url(tmp_path))
    yield made
    made.close()


@pytest.fixture
def with_database(make_api: Callable[..., Api], database: CatalogueDatabase) -> Api:
    return make_api(truth=database)


def waiting(database: CatalogueDatabase) -> list[Message]:
    with database.outbox().claim(100) as claim:
        return list(claim.messages)


def test_an_item_is_in_table_outbox_and_store_and_not_in_the_spool(
    with_database: Api, database: CatalogueDatabase
) -> None:
    assert with_database.client.post("/v1/items", json=ITEM).json() == {"stored": 1}
    assert list(database.items()) == [ItemChange("new", STORED, NOW_MS)]
    (message,) = waiting(database)
    assert (message.topic, message.key) == (Topic.ITEMS, "new")
    assert dict(with_database.store.catalogue(["new"])) == {"new": STORED}
    assert with_database.logged(Topic.ITEMS) == []


def test_changes_within_a_millisecond_keep_their_order_everywhere(
    with_database: Api, database: CatalogueDatabase
) -> None:
    """The clock of the test stands still."""
    with_database.client.post("/v1/items", json=ITEM)
    assert with_database.client.delete("/v1/items/new").status_code == 204
    with_database.client.post("/v1/items", json=ITEM)
    with_database.client.delete("/v1/items/new")
    assert list(database.items()) == [ItemChange("new", None, NOW_MS + 3)]
    assert [orjson.loads(m.value)["changed_ms"] - NOW_MS for m in waiting(database)] == [0, 1, 2, 3]
    assert dict(with_database.store.catalogue(["new"])) == {"new": None}


def test_a_request_that_is_sent_again_writes_once(with_database: Api, database: CatalogueDatabase) -> None:
    for _ in range(2):
        answer = with_database.client.post("/v1/items", json=ITEM, headers={"Idempotency-Key": "k1"})
        assert answer.status_code == 202
    assert len(waiting(database)) == 1


class LosesAnAnswer(MemoryReplays):
    """Redis goes away once, between a request's work and the record of its answer."""

    lost = False

    def put(self, name: str, content: bytes) -> None:
        if not self.lost and not name.endswith("-began"):
            self.lost = True
            raise Unavailable("Redis: away")
        super().put(name, content)


def test_a_request_whose_answer_was_lost_undoes_nothing(
    with_database: Api, database: CatalogueDatabase
) -> None:
    """It was stored, and somebody has changed the item when it is sent again."""
    clock = itertools.count(NOW_MS)
    idempotency, client = with_database.services.idempotency, with_database.client
    idempotency.replays, idempotency.now_ms = LosesAnAnswer(), lambda: next(clock)
    key = {"Idempotency-Key": "k1"}
    assert client.post("/v1/items", json=ITEM, headers=key).status_code == 503
    assert client.post("/v1/items", json=ITEM | {"title": "Newer"}).status_code == 202
    assert client.post("/v1/items", json=ITEM, headers=key).status_code == 202
    assert [change.item and change.item.title for change in database.items()] == ["Newer"]
    assert [orjson.loads(m.value)["item"]["title"] for m in waiting(database)] == ["New", "Newer"]
    assert [item and item.title for _, item in with_database.store.catalogue(["new"])] == ["Newer"]


def test_a_user_is_stored_and_forgotten(with_database: Api, database: CatalogueDatabase) -> None:
    answer = with_database.client.put("/v1/users/u9", json={"attributes": {"age": "31"}})
    assert answer.status_code == 202
    assert list(database.users()) == [UserChange("u9", User("u9", {"age": "31"}), NOW_MS)]
    assert with_database.client.get("/v1/users/u9").json()["attributes"] == {"age": "31"}
    assert with_database.client.delete("/v1/users/u9").status_code == 204
    assert list(database.users()) == []
    assert [(m.key, m.value) for m in waiting(database)] == [("u9", b"")]
    assert with_database.logged(Topic.USERS) == []


def test_a_database_without_tables_is_503_and_changes_nothing(
    make_api: Callable[..., Api], tmp_path: Path
) -> None:
    api = make_api(truth=opened(f"sqlite:///{tmp_path / 'empty.db'}"))
    for answer in (
        api.client.post("/v1/items", json=ITEM),
        api.client.put("/v1/users/u9", json={"attributes": {"age": "31"}}),
        api.client.delete("/v1/users/u9"),
    ):
        assert answer.status_code == 503
        assert "recsys db upgrade" in answer.text
    assert dict(api.store.catalogue(["new"])) == {}
    assert api.store.user("u9").attributes is None
    assert api.logged(Topic.ITEMS) == api.logged(Topic.USERS) == []


def test_the_setting_names_the_database(tmp_path: Path) -> None:
    settings = ServingSettings(home=tmp_path, database_url=SecretStr("sqlite"))
    truth = assembly._database(settings)
    assert isinstance(truth, CatalogueDatabase)
    truth.close()
