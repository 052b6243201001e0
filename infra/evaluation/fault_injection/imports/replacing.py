"""Imports that would lose or replace what is in the lake already, and imports that are killed."""

import itertools
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

from infra.evaluation.fault_injection.hostile.attacks import Broken
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidData
from recsys.contracts.types import Item, User
from recsys.datasets.catalogue import items_path, read_users
from recsys.datasets.changed import items_after, users_after
from recsys.datasets.importer import import_dataset
from recsys.datasets.opening import open_dataset
from recsys.items.item_table import read_items
from recsys.lake.lake import read_events, write_parquet

_ROWS = 60
_KILLED = 9
_STRIDE = 5  # between two steps at which the import is killed
_MAPPING = """
events: {files: [e.csv], user: u, item: i, time: {column: t}, context: {edition: c}, events: [{type: click}]}
items: {files: [i.csv], item: i, title: title}
users: {files: [u.csv], user: u, attributes: {edition: c}}
"""


def killed(folder: Path) -> str:
    """Kill an import of a second edition before one change of the file system after the other."""
    shop = _write(folder / "shop", "old")
    import_dataset(open_dataset(shop), folder / "old")
    _write(shop, "new")
    # processes of their own, which start with one thread and everything imported
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload([__name__])
    found = {"old": 0, "new": 0}
    for step in itertools.count(1, _STRIDE):
        lake = Path(shutil.copytree(folder / "old", folder / f"lake-{step}"))
        process = forking.Process(target=_import_until, args=(shop, lake, step))
        process.start()
        process.join()
        if process.exitcode not in (0, _KILLED):
            raise Broken(f"step {step}: exit code {process.exitcode}")
        found[_edition(lake, f"killed before step {step}")] += 1
        import_dataset(open_dataset(shop), lake)
        if _edition(lake, "the import after it") != "new":
            raise Broken(f"step {step}: what was left behind is in the way of the next import")
        if process.exitcode == 0:
            break
        shutil.rmtree(lake)
    if not found["old"]:
        raise Broken("no import was killed before its commit")
    return f"killed at {sum(found.values()) - 1} steps: {found['old']} times the old lake, {found['new']} the new one"


def _import_until(shop: Path, lake: Path, step: int) -> None:
    changes = itertools.count(1)

    def hook(event: str, _arguments: object) -> None:
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") and next(changes) == step:
            os._exit(_KILLED)

    sys.addaudithook(hook)
    import_dataset(open_dataset(shop), lake)


def _edition(lake: Path, when: str) -> str:
    """Which edition the whole lake is of."""
    events = list(read_events(lake))
    found = {event.context["edition"] for event in events}
    found |= {item.title for item in read_items(items_path(lake))}
    found |= {user.attributes["edition"] for user in read_users(lake)}
    if len(events) != _ROWS or len(found) != 1:
        raise Broken(f"{when}: {len(events)} events of {_ROWS}, of {' and '.join(sorted(found))}")
    return found.pop()


def another_source(folder: Path) -> str:
    """Import another folder of the same name."""
    lake = folder / "lake"
    for parent in ("a", "b"):
        shop = _write(folder / parent / "shop", parent)
        if parent == "a":
            import_dataset(open_dataset(shop), lake)
            continue
        try:
            import_dataset(open_dataset(shop), lake)
        except InvalidData as error:
            if _edition(lake, "refused") != "a":
                raise Broken("refused, but the lake has changed") from None
            import_dataset(open_dataset(shop, name="shop-b"), lake)
            if len(list(read_events(lake))) != 2 * _ROWS:
                raise Broken("under a name of its own it is not next to the other one") from error
            return "refused; next to the other one under a name of its own"
    raise Broken("the other source's events were replaced")


def older_than_the_api(folder: Path) -> str:
    """Import a table again after its items and users were changed and deleted through the API."""
    lake, shop = folder / "lake", _write(folder / "shop", "old")
    import_dataset(open_dataset(shop), lake)
    changes = [
        *items_after(lake, [ItemChange("0", Item("0", "edited"), 5), ItemChange("1", None, 5)]),
        *users_after(lake, [UserChange("0", User("0", {"edition": "edited"}), 5), UserChange("1", None, 5)]),
    ]
    for path, table in changes:
        write_parquet(lake / path, table)
    import_dataset(open_dataset(shop), lake)
    titles = {item.item_id: item.title for item in read_items(items_path(lake))}
    users = {user.user_id: user.attributes["edition"] for user in read_users(lake)}
    for what, found in (("item", titles), ("user", users)):
        if found.get("0") != "edited" or "1" in found:
            raise Broken(f"{what} 0 is {found.get('0')}, {what} 1 is {found.get('1', 'deleted')}")
    return "edits stay, what was deleted stays deleted"


def _write(shop: Path, edition: str) -> Path:
    shop.mkdir(parents=True, exist_ok=True)
    ids = range(_ROWS)
    (shop / "mapping.yaml").write_text(_MAPPING)
    (shop / "e.csv").write_text(
        "u,i,t,c\n" + "".join(f"{n},{n},{1_600_000_000_000 + 3_600_000 * n},{edition}\n" for n in ids)
    )
    (shop / "i.csv").write_text("i,title\n" + "".join(f"{n},{edition}\n" for n in ids))
    (shop / "u.csv").write_text("u,c\n" + "".join(f"{n},{edition}\n" for n in ids))
    return shop
