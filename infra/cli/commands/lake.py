"""`recsys lake`: the lake in an object store."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from infra.signals import stop_event
from infra.terminal import JsonFlag, console, print_mapping
from recsys.contracts.errors import InvalidConfig, InvalidData, Unavailable
from recsys.settings import Settings

if TYPE_CHECKING:
    from recsys.lake.mirror import Progress, Transfer
    from recsys.lake.object_store import ObjectStore

app = typer.Typer(no_args_is_help=True, help="Push the lake to an object store, pull it from there.")
Url = Annotated[str, typer.Argument(help="s3://bucket/folder; default: RECSYS_LAKE_STORE.")]

_log = structlog.get_logger(__name__)


@app.command()
def push(
    url: Url = "",
    every: Annotated[
        float, typer.Option(min=0.0, help="Seconds between pushes, until Ctrl-C; 0: push once.")
    ] = 0.0,
    as_json: JsonFlag = False,
) -> None:
    """Upload what the store does not have, then make it the store's lake in one step. Archiver and imports may run.

    It is refused where the store has a lake that this one was not made from, such as that of another machine.

    Example: recsys lake push s3://shop/lake --every 60
    """
    from recsys.lake import mirror

    if every and as_json:
        raise InvalidConfig("--json prints one object, and --every has no end: its log has each push")
    if not math.isfinite(every):
        raise InvalidConfig("--every is a number of seconds")
    settings = Settings()
    store, lake = _store(settings, url), settings.lake
    if every:
        _push_until(stop_event(), lake, store, every)
    else:
        with _bar("pushing") as progress:
            done = mirror.push(lake, store, progress)
        _print("pushed", done, as_json)


@app.command()
def pull(
    url: Url = "",
    discard: Annotated[
        bool, typer.Option("--discard", help="Give up what was changed here since the last push or pull.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Succeed where nothing has been pushed yet.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make the lake here the store's, in one step: by SHA-256, without what is here already. Stop the archiver first.

    A new machine starts with it: the archiver's offsets are part of the lake. Where the lake was made from the store's
    latest snapshot, nothing is done, also if files were lost here since: --discard brings them back.

    Example: recsys lake pull s3://shop/lake
    """
    from recsys.lake import mirror
    from streaming.lake_writer.commit import exclusive

    settings = Settings()
    store = _store(settings, url)
    with exclusive(settings.lake), _bar("pulling") as progress:
        done = mirror.pull(settings.lake, store, discard=discard, progress=progress)
    if done is not None:
        _print("pulled", done, as_json)
        if discard and done.marks_kept:  # the store's `rejected/` is back, whose broken rows may name them
            console.print(
                f"users forgotten only here: {done.marks_kept}; forget these users again (`recsys users forget`), for"
                " the broken rows that the store's imports have kept came back",
                highlight=False,
                soft_wrap=True,
            )
    elif allow_missing:
        print_mapping("pulled", {"snapshot": 0}, as_json)
    else:
        raise InvalidData(f"{store.url} has no lake yet: `recsys lake push` makes it")


@app.command()
def status(url: Url = "", as_json: JsonFlag = False) -> None:
    """Compare the lake here with the store's.

    Example: recsys lake status
    """
    from recsys.lake import mirror

    settings = Settings()
    store = _store(settings, url)
    print_mapping(store.url, mirror.status(settings.lake, store)._asdict(), as_json)


def _store(settings: Settings, url: str) -> "ObjectStore":
    if not (url or settings.lake_store):
        raise InvalidConfig("name the store, s3://bucket/folder, or set RECSYS_LAKE_STORE")
    from recsys.lake.object_store import ObjectStore

    return ObjectStore(url or settings.lake_store)


def _push_until(stop: threading.Event, lake: Path, store: "ObjectStore", every: float) -> None:
    """Outages of the store are waited out; a lake of another machine ends it."""
    from recsys.lake import mirror

    while not stop.is_set():
        try:
            done = mirror.push(lake, store)
            if done.changed:
                _log.info("pushed the lake", **done._asdict())
        except Unavailable as error:
            _log.warning("the lake is not pushed", error=str(error))
        stop.wait(every)


def _print(title: str, done: "Transfer", as_json: bool) -> None:
    print_mapping(title, done._asdict(), as_json)


@contextmanager
def _bar(title: str) -> Iterator["Progress"]:
    """Bytes of all bytes."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)
