"""Push a lake to an object store, pull it from there: whole snapshots, by checksum (docs/adr/0038-lake-in-s3.md).

`push` uploads the files that the store does not have and then replaces the snapshot, if it still is the one that this
lake was made from: that is the commit, and why only one of two machines can extend a lake. `pull` downloads what is
missing here and changes the lake by `recsys.lake.commit`, in one step. A killed push or pull leaves both as they
were; the next one continues with what was transferred.
"""

import secrets
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from recsys.contracts.errors import InvalidConfig, InvalidData, Unavailable
from recsys.files import atomic_write, staged_file
from recsys.lake.commit import commit, rewriting
from recsys.lake.forget import FOLDER as MARKS
from recsys.lake.frozen import Frozen, frozen, sha256_of, stats_of
from recsys.lake.mirror_base import BASE, Base, announce, base_of, is_base, latest_of, one_at_a_time, parsed
from recsys.lake.object_store import ObjectStore, Read
from recsys.lake.snapshot import SNAPSHOT, STATE, File, Snapshot, garbage, object_name

_INCOMING, _STAGED = "incoming", "staged"
_TRANSFERS = 8  # at a time
_ATTEMPTS = 5
_SHOWN = 3

_HEAL = "the next push of a machine that has the lake uploads it again"

Moved = Mapping[str, File]
Progress = Callable[[int, int], None]  # bytes done, bytes of all


class _Lost(Exception):
    """An object of a snapshot is not in the store: a later push has removed it, or somebody else."""


class Transfer(NamedTuple):
    """What a push or pull did. `files`, `bytes`: moved, without what an interrupted one had moved."""

    snapshot: int
    changed: bool
    files: int
    bytes: int
    deleted: int


class Difference(NamedTuple):
    """What `status` found. Numbers of snapshots are 0 where there is none."""

    there: int
    created: str
    machine: str
    files: int
    bytes: int
    here: int
    changed_here: int


def push(lake: Path, store: ObjectStore, progress: Progress = lambda done, of: None) -> Transfer:
    """Make the store's snapshot this lake as it is now.

    Raises:
        InvalidConfig: the store has a snapshot that this lake was not made from; or the lake is empty.
        InvalidData: the store's snapshot is damaged.
    """
    with one_at_a_time(lake):
        read = store.read(SNAPSHOT)
        latest = parsed(store, read)
        if latest and not is_base(lake, store, latest):
            raise _conflict(lake, store, latest)
        there = store.sizes()
        known = {
            path: file
            for path, file in (latest.files if latest else {}).items()
            if there.get(object_name(path, file)) == file.size  # else the object is lost: this lake has it
        }
        with frozen(lake, known) as now:
            if not now.stats:
                raise InvalidConfig(f"{lake} has nothing to push: is RECSYS_HOME right?")
            new = _successor(latest, known, now)
            moved = _upload(store, new, known, there, now, progress)
        if new != latest:
            _commit(lake, store, read, new)
        dropped = garbage({*there, *(object_name(*entry) for entry in moved.items())}, new)
        store.delete(dropped)
    return Transfer(new.number, new != latest, len(moved), _size(moved), len(dropped))


def pull(
    lake: Path, store: ObjectStore, *, discard: bool = False, progress: Progress = lambda done, of: None
) -> Transfer | None:
    """Make this lake the store's snapshot; None: nothing was pushed there yet. Stop the archiver before. Marks of
    forgotten users that the store does not have stay.

    Raises:
        InvalidConfig: files were changed here, and `discard` is false.
        InvalidData: the snapshot or an object is damaged.
    """
    with one_at_a_time(lake):
        for _ in range(_ATTEMPTS):
            latest = latest_of(store)
            if latest is None:
                return None
            if not discard and is_base(lake, store, latest):
                return Transfer(latest.number, False, 0, 0, 0)
            try:
                return _pull(lake, store, latest, discard, progress)
            except _Lost as lost:
                if latest_of(store) == latest:
                    raise InvalidData(f"{store.url}/{lost} is not there any more: {_HEAL}") from lost
    raise InvalidConfig(f"{store.url} is pushed to faster than it can be pulled; try again")


def _pull(lake: Path, store: ObjectStore, latest: Snapshot, discard: bool, progress: Progress) -> Transfer:
    with frozen(lake, latest.files) as now:
        changed = _changed_here(lake, store, latest, now)
    marks = {path for path in changed if path.startswith(f"{MARKS}/") and path not in latest.files}
    if not discard and len(changed) > len(marks):
        raise InvalidConfig(_refusal(lake, [path for path in changed if path not in marks]))
    wanted = {path: file for path, file in latest.files.items() if now.sha256.get(path) != file.sha256}
    moved = _download(lake, store, wanted, progress)
    gone = [lake / path for path in now.sha256 if path not in latest.files and path not in marks]
    _move_into_place(lake, Base(store.url, latest), wanted, gone, now)
    return Transfer(latest.number, True, len(moved), _size(moved), len(gone))


def status(lake: Path, store: ObjectStore) -> Difference:
    """Compare the two without changing either."""
    with one_at_a_time(lake):
        latest = latest_of(store)
        if latest:
            is_base(lake, store, latest)  # settles what a killed push has left
        base = base_of(lake, store)
        known = base.files if base else {}
        with frozen(lake, known) as now:
            here = now.sha256
        changed = sum(path not in known or here.get(path) != known[path].sha256 for path in {*here, *known})
    files = latest.files.values() if latest else ()
    return Difference(
        there=latest.number if latest else 0,
        created=latest.created if latest else "",
        machine=latest.machine if latest else "",
        files=len(files),
        bytes=sum(file.size for file in files),
        here=base.number if base else 0,
        changed_here=changed,
    )


def _size(moved: Moved) -> int:
    return sum(file.size for file in moved.values())


# --- push -------------------------------------------------------------------------------------------------------


def _conflict(lake: Path, store: ObjectStore, latest: Snapshot | None) -> InvalidConfig:
    if latest is None:
        return InvalidConfig(f"{store.url}: {SNAPSHOT} was deleted during the push; push again")
    return InvalidConfig(
        f"{store.url} has snapshot {latest.number} of {latest.machine} ({latest.created}), which {lake} was not made"
        " from: nothing is pushed. Name another place, or take that one: `recsys lake pull`"
    )


def _successor(latest: Snapshot | None, known: Mapping[str, File], now: Frozen) -> Snapshot:
    """`latest` itself where nothing differs, but for its `id` and time."""
    number = latest.number + 1 if latest else 1
    files = {}
    for path, sha256 in now.sha256.items():
        file = known.get(path)
        same = file is not None and file.sha256 == sha256
        files[path] = file if file and same else File(now.stats[path].size, sha256, since=number)
    if latest and files == latest.files:
        return latest
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Snapshot(number, secrets.token_hex(16), created, socket.gethostname(), dict(sorted(files.items())))


def _upload(
    store: ObjectStore,
    new: Snapshot,
    known: Mapping[str, File],
    there: Mapping[str, int],
    now: Frozen,
    progress: Progress,
) -> Moved:
    """Every file of the new snapshot that the store lacks; returns those."""
    missing = {
        path: file
        for path, file in new.files.items()
        if known.get(path) != file and there.get(object_name(path, file)) != file.size
    }
    _transfer(lambda path, file: store.upload(object_name(path, file), now.links / path), missing, progress)
    return missing


def _commit(lake: Path, store: ObjectStore, read: Read | None, new: Snapshot) -> None:
    announce(lake, Base(store.url, new))
    content, before = msgspec.json.encode(new), parsed(store, read)
    for _ in range(_ATTEMPTS):
        if store.replace(SNAPSHOT, content, read.version if read else None):
            break
        latest = latest_of(store)
        if latest and latest.id == new.id:  # the answer was lost, and the repeated request refused
            break
        if latest != before:
            raise _conflict(lake, store, latest)
    else:  # S3 refuses what another request is about to write, too
        raise Unavailable(f"{store.url}: others write {SNAPSHOT} all the time; try again")
    if before is None and store.replace(SNAPSHOT, content, None):
        store.delete([SNAPSHOT])
        raise InvalidConfig(
            f"{store.url}: this store ignores If-None-Match, which keeps two machines from overwriting each other's"
            " lake; use one that has conditional writes"
        )
    is_base(lake, store, new)


# --- pull -------------------------------------------------------------------------------------------------------


def _changed_here(lake: Path, store: ObjectStore, latest: Snapshot, now: Frozen) -> list[str]:
    """Paths whose content here is neither that of the base nor that of the latest snapshot."""
    base = base_of(lake, store)
    before = base.files if base else {}
    paths = {*now.sha256, *before}
    old = {path: file.sha256 for path, file in before.items()}
    new = {path: file.sha256 for path, file in latest.files.items()}
    return sorted(p for p in paths if now.sha256.get(p) not in (old.get(p), new.get(p)))


def _refusal(lake: Path, changed: list[str]) -> str:
    names = ", ".join(changed[:_SHOWN]) + (", …" if len(changed) > _SHOWN else "")
    return (
        f"{lake} has {len(changed)} changed files that the store does not have ({names}): push them to another place,"
        " or give them up with --discard"
    )


def _download(lake: Path, store: ObjectStore, wanted: Mapping[str, File], progress: Progress) -> Moved:
    """Into `incoming`, by digest; returns what was moved. Raises `_Lost`: an object is not there."""
    incoming = lake / STATE / _INCOMING
    incoming.mkdir(parents=True, exist_ok=True)
    by_digest = {file.sha256: (path, file) for path, file in wanted.items()}
    missing = dict(entry for digest, entry in by_digest.items() if not (incoming / digest).exists())

    def one(path: str, file: File) -> None:
        name = object_name(path, file)
        with staged_file(incoming / file.sha256, fsync=True) as temporary:
            if not store.download(name, temporary):
                raise _Lost(name)
            if sha256_of(temporary) != file.sha256:
                raise InvalidData(
                    f"{store.url}/{name} has another content than was pushed: delete it; {_HEAL}"
                )

    _transfer(one, missing, progress)
    return missing


def _move_into_place(
    lake: Path, base: Base, wanted: Mapping[str, File], gone: Iterable[Path], now: Frozen
) -> None:
    staged, incoming = lake / STATE / _STAGED, lake / STATE / _INCOMING
    with rewriting(lake):
        if stats_of(lake) != now.stats:
            raise InvalidConfig(f"{lake} was changed while it was pulled: stop who writes it, and pull again")
        shutil.rmtree(staged, ignore_errors=True)  # of a process that was killed
        for path, file in wanted.items():
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).hardlink_to(incoming / file.sha256)
        atomic_write(staged / STATE / BASE, msgspec.json.encode(base), fsync=True)
        commit(lake, staged, gone)
    shutil.rmtree(incoming)


def _transfer(one: Callable[[str, File], None], entries: Moved, progress: Progress) -> None:
    """Some at a time; the first error ends it."""
    done, of = 0, sum(file.size for file in entries.values())
    pool = ThreadPoolExecutor(_TRANSFERS)
    try:
        sizes = {pool.submit(one, path, file): file.size for path, file in entries.items()}
        for future in as_completed(sizes):
            future.result()
            done += sizes[future]
            progress(done, of)
    finally:
        pool.shutdown(cancel_futures=True)
