"""`recsys db`: from a lake to a database, back, and the comparison with Redis; forgetting reaches the database."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.cli.commands import db, users
from infra.cli.status import gather
from recsys.catalogue_db.database import CatalogueDatabase
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.types import Item, User
from recsys.datasets.changed import items_after, users_after
from recsys.features.definitions import FEATURES
from recsys.lake.lake import write_parquet
from recsys.settings import Settings
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore


def run(app: Any, *arguments: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


@pytest.mark.redis
def test_the_way_from_a_lake_to_a_database_and_back(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "HOME": str(tmp_path),
        "DATABASE_URL": "sqlite",
        "REDIS_URL": redis_url,
        "KAFKA_BOOTSTRAP": "127.0.0.1:1",
    }.items():
        monkeypatch.setenv(f"RECSYS_{name}", value)
    items = [ItemChange("i", Item("i", "Title"), 0), ItemChange("j", Item("j"), 5)]
    for path, table in items_after(tmp_path / "lake", items) + users_after(
        tmp_path / "lake", [UserChange("u", User("u", {"age": "31"}), 5)]
    ):
        write_parquet(tmp_path / "lake" / path, table)
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(4))
    store.change_items(items)

    assert gather(Settings(), "http://127.0.0.1:1")["database"]["reachable"] is False
    assert run(db.app, "upgrade")["database"] == f"sqlite:///{tmp_path / 'catalogue.db'}"
    assert run(db.app, "import") == {"items": 2, "deleted": 0, "users": 1}
    found = run(db.app, "verify", code=1)
    assert found["waiting"] == 0
    assert {name for name, each in found["places"].items() if not each["equal"]} == {"users in the store"}
    assert found["places"]["users in the store"]["missing"] == ["u"]
    store.change_users([UserChange("u", User("u", {"age": "31"}), 5)])
    assert run(db.app, "verify")["equal"] is True
    assert run(db.app, "export", str(tmp_path / "export"))["items"] == 2

    run(users.app, "forget", "u")
    database = CatalogueDatabase.of(Settings())
    assert list(database.users()) == []
    assert gather(Settings(), "http://127.0.0.1:1")["database"]["waiting"] == 1
    with database.outbox().claim(10) as claim:
        assert [(message.key, message.value) for message in claim.messages] == [("u", b"")]
    database.close()
    store.close()
