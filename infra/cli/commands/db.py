"""`recsys db`: the database that is the source of truth for items and users (RECSYS_DATABASE_URL)."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from infra.terminal import JsonFlag, console, print_json, print_mapping, print_table
from recsys.settings import Settings

app = typer.Typer(
    no_args_is_help=True, help="The database of items and users: tables, import, export, comparison."
)

_SHOWN = 10  # ids of each kind of difference on a terminal


@app.command()
def upgrade(as_json: JsonFlag = False) -> None:
    """Create the tables, or bring them to the version of this code. Needs an account that may do so.

    Example: recsys db upgrade
    """
    from recsys.catalogue_db.connection import safe, url_of
    from recsys.catalogue_db.migrate import upgrade as upgrade_tables

    url = url_of(Settings())
    before, after = upgrade_tables(url)
    print_mapping("upgraded", {"database": safe(url), "from": before, "to": after}, as_json)


@app.command("import")
def import_(
    folder: Annotated[
        Path | None, typer.Argument(help="A lake, or an export; default: the lake in home.")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Send every row to the topics, too; it replaces what is there.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Store the items and users of a lake in the database. What the database has newer stays.

    Example: recsys db import
    """
    from recsys.catalogue_db.database import CatalogueDatabase
    from recsys.catalogue_db.transfer import import_tables

    settings = Settings()
    with closing(CatalogueDatabase.of(settings)) as database:
        done = import_tables(database, folder or settings.lake, publish)
    print_mapping("imported", asdict(done), as_json)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder for the tables.")], as_json: JsonFlag = False
) -> None:
    """Write the database's items and users as the tables of a lake, which `recsys db import` reads.

    Example: recsys db export var/export
    """
    from recsys.catalogue_db.database import CatalogueDatabase
    from recsys.catalogue_db.transfer import export_tables

    with closing(CatalogueDatabase.of(Settings())) as database:
        print_mapping("exported", asdict(export_tables(database, folder)), as_json)


@app.command()
def verify(as_json: JsonFlag = False) -> None:
    """Compare the database with Redis and the lake, by checksum, and name the ids that differ. Exits with 1 if any do.

    Changes that are still under way differ, too: `waiting` of them are in the outbox.

    Example: recsys db verify --json
    """
    from infra.cli.stores import feature_store
    from infra.local.services import connected
    from recsys.catalogue_db.database import CatalogueDatabase
    from recsys.catalogue_db.verify import verify as compare

    settings = connected(Settings())
    with closing(CatalogueDatabase.of(settings)) as database, closing(feature_store(settings)) as store:
        found = compare(database, settings.lake, store)
        waiting = database.outbox().backlog()
    equal = all(each.equal for each in found.values())
    if as_json:
        places = {name: asdict(each) | {"equal": each.equal} for name, each in found.items()}
        print_json({"equal": equal, "waiting": waiting.rows, "places": places})
        raise typer.Exit(0 if equal else 1)
    rows = []
    for name, each in found.items():
        ids = {"missing": each.missing, "differing": each.differing, "unknown": each.unknown}
        said = "; ".join(
            f"{kind} {len(some)}: {', '.join(some[:_SHOWN])}" for kind, some in ids.items() if some
        )
        rows.append((name, each.rows, each.checksum[:12], each.found_checksum[:12], said or "equal"))
    print_table("database", ("compared with", "rows", "checksum", "found there", ""), rows)
    if waiting.rows:
        console.print(f"{waiting.rows} changes wait in the outbox, the oldest for {waiting.oldest_s:.1f} s")
    raise typer.Exit(0 if equal else 1)
