"""Push a lake to an object store, pull it from there: whole snapshots, by checksum (docs/adr/0038-lake-in-s3.md).

`push` uploads the files that the store does not have and then replaces the snapshot, if it still is the one that this
lake was made from: that is the commit, and why only one of two machines can extend a lake. `pull` downloads what is
missing here and changes the lake by `recsys.lake.commit`, in one step. A killed push or pull leaves both as they
were; the next one continues with what was transferred.
"""

import secrets
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.lake.frozen import Frozen, frozen
from recsys.lake.mirror_base import (
    Base,
    ancestor_of,
    announce,
    base_of,
    is_base,
    latest_of,
    one_at_a_time,
    parsed,
)
from recsys.lake.mirror_pull import pull
from recsys.lake.mirror_transfer import Moved, Progress, Transfer, size_of, transfer
from recsys.lake.object_store import ObjectStore, Read
from recsys.lake.snapshot import SNAPSHOT, File, Snapshot, garbage, object_name

__all__ = ["Difference", "Progress", "Transfer", "pull", "push", "status"]

_ATTEMPTS = 5
_NO_VERSION = '"00000000000000000000000000000000"'  # what no object's ETag is


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
        InvalidConfig: the store has a snapshot that this lake was not made from, another lake in a folder below, or
            no conditional writes; or the lake is empty.
        InvalidData: the store's snapshot is damaged.
        Unavailable: another process pushes, pulls or compares; or compaction is running.
    """
    with one_at_a_time(lake):
        read = store.read(SNAPSHOT)
        latest = parsed(store, read)
        if latest and not is_base(lake, store, latest):
            raise _conflict(lake, store, latest)
        there = store.sizes()
        _check_alone(store, there)
        known = {
            path: file
            for path, file in (latest.files if latest else {}).items()
            if there.get(object_name(path, file)) == file.size  # else the object is lost: this lake has it
        }
        with frozen(lake, known) as now:
            if not now.stats:
                raise InvalidConfig(f"{lake} has nothing to push: is RECSYS_HOME right?")
            new = _successor(latest, known, now)
            if read and new != latest:
                _check_conditions(store, read.content)
            moved = _upload(store, new, known, there, now, progress)
        if new != latest:
            _commit(lake, store, read, new)
        dropped = garbage(
            {*there, *(object_name(*entry) for entry in moved.items())}, new, first=latest is None
        )
        store.delete(dropped)
    return Transfer(new.number, new != latest, len(moved), size_of(moved), len(dropped))


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


def _conflict(lake: Path, store: ObjectStore, latest: Snapshot | None) -> InvalidConfig:
    if latest is None:
        return InvalidConfig(f"{store.url}: {SNAPSHOT} was deleted during the push; push again")
    has = f"{store.url} has snapshot {latest.number} of {latest.machine} ({latest.created})"
    base = base_of(lake, store)
    if base and not ancestor_of(latest, base):
        return InvalidConfig(
            f"{has}, which is older than snapshot {base.number} that {lake} was made from, or of another lake: nothing"
            f" is pushed. Restore the store's last {SNAPSHOT}, or name another place"
        )
    return InvalidConfig(
        f"{has}, which {lake} was not made from: nothing is pushed. Name another place, or take that one:"
        " `recsys lake pull`"
    )


def _check_alone(store: ObjectStore, there: Mapping[str, int]) -> None:
    """The lake of a folder below would be garbage of this one."""
    if other := next((name for name in there if name.endswith(f"/{SNAPSHOT}")), None):
        raise InvalidConfig(
            f"{store.url}/{other.removesuffix(f'/{SNAPSHOT}')} is a lake of its own: push to a folder that has no"
            " other lake below it"
        )


def _check_conditions(store: ObjectStore, content: bytes) -> None:
    """Without them two machines overwrite each other's lake. `content`: what the snapshot has, so that a store that
    ignores them is left as it was."""
    for condition, version in (("If-None-Match", None), ("If-Match", _NO_VERSION)):
        if store.replace(SNAPSHOT, content, version):
            raise InvalidConfig(
                f"{store.url}: this store ignores {condition}, which keeps two machines from overwriting each other's"
                " lake; use one that has conditional writes"
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
    own = secrets.token_hex(16)
    lineage = latest.lineage if latest else own
    return Snapshot(number, own, lineage, created, socket.gethostname(), dict(sorted(files.items())))


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
    transfer(lambda path, file: store.upload(object_name(path, file), now.links / path), missing, progress)
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
    if before is None:  # only now is there what a condition can refuse
        try:
            _check_conditions(store, content)
        except InvalidConfig:
            store.delete([SNAPSHOT])
            raise
    is_base(lake, store, new)
