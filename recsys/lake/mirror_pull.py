"""Make a lake the snapshot of an object store: download what is missing here, then change the lake in one step."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.files import atomic_write, staged_file
from recsys.lake.commit import commit, rewriting
from recsys.lake.forget import FOLDER as MARKS
from recsys.lake.frozen import Frozen, frozen, sha256_of, stats_of
from recsys.lake.mirror_base import BASE, Base, ancestor_of, base_of, is_base, latest_of, one_at_a_time
from recsys.lake.mirror_transfer import HEAL, Moved, Progress, Transfer, size_of, transfer
from recsys.lake.object_store import ObjectStore
from recsys.lake.snapshot import STATE, File, Snapshot, object_name

_INCOMING, _STAGED = "incoming", "staged"
_ATTEMPTS = 5
_SHOWN = 3


class _Lost(Exception):
    """An object of a snapshot is not in the store: a later push has removed it, or somebody else."""


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
                    raise InvalidData(f"{store.url}/{lost} is not there any more: {HEAL}") from lost
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
    return Transfer(latest.number, True, len(moved), size_of(moved), len(gone))


def _changed_here(lake: Path, store: ObjectStore, latest: Snapshot, now: Frozen) -> list[str]:
    """Paths whose content here is neither that of the base nor that of the latest snapshot."""
    base = base_of(lake, store)
    before = base.files if base and ancestor_of(latest, base) else {}
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
                    f"{store.url}/{name} has another content than was pushed: delete it; {HEAL}"
                )

    transfer(one, missing, progress)
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
