"""Make a lake the snapshot of an object store: download what is missing here, then change the lake in one step."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.files import atomic_write, staged_file
from recsys.lake.commit import commit, rewriting
from recsys.lake.forget import FOLDER as MARKS
from recsys.lake.frozen import Frozen, frozen, link_or_copy, sha256_of, stats_of
from recsys.lake.mirror_base import (
    Base,
    ancestor_of,
    base_name,
    base_of,
    bases_of,
    is_base,
    latest_of,
    one_at_a_time,
)
from recsys.lake.mirror_transfer import HEAL, Moved, Progress, Transfer, size_of, transfer
from recsys.lake.object_store import ObjectStore
from recsys.lake.snapshot import STATE, File, Snapshot, object_name
from recsys.operator_files import read_json

_INCOMING, _STAGED = "incoming", "staged"
_ATTEMPTS = 5
_SHOWN = 3


class _Lost(Exception):
    """An object of a snapshot is not in the store: a later push has removed it, or somebody else."""


def pull(
    lake: Path, store: ObjectStore, *, discard: bool = False, progress: Progress = lambda done, of: None
) -> Transfer | None:
    """Make this lake the store's snapshot; None: nothing was pushed there yet. Stop the archiver before. Marks of
    forgotten users stay that the store does not have, or has with an earlier time. Without `discard`, a lake that was
    made from this very snapshot stays as it is, also where files were changed or lost since: see `Transfer`.

    Raises:
        InvalidConfig: files were changed here, and `discard` is false.
        InvalidData: the snapshot or an object is damaged.
        Unavailable: another process pushes, pulls or compares; or compaction is running.
    """
    with one_at_a_time(lake):
        for _ in range(_ATTEMPTS):
            latest = latest_of(store)
            if latest is None:
                return None
            if not discard and is_base(lake, store, latest):
                _remove_remains(lake)
                return Transfer(latest.number, False, 0, 0, 0, differing=_differing(lake, latest))
            try:
                return _pull(lake, store, latest, discard, progress)
            except _Lost as lost:
                if latest_of(store) == latest:
                    raise InvalidData(f"{store.url}/{lost} is not there any more: {HEAL}") from lost
    raise InvalidConfig(f"{store.url} is pushed to faster than it can be pulled; try again")


def _pull(lake: Path, store: ObjectStore, latest: Snapshot, discard: bool, progress: Progress) -> Transfer:
    base = base_of(lake, store)
    known = base if base and ancestor_of(latest, base) else None
    with frozen(lake, latest.files) as now:
        changed = _changed_here(known, latest, now)
    if changed and not discard:
        raise InvalidConfig(_refusal(lake, changed))
    marks = {
        path: file for path, file in _missing(latest, now).items() if path in now.sha256 and _is_mark(path)
    }
    moved = _download(lake, store, marks, lambda done, of: None)
    kept = _kept_marks(lake, latest, now, marks)
    wanted = {path: file for path, file in _missing(latest, now).items() if path not in kept}
    moved = {**moved, **_download(lake, store, wanted, progress)}
    gone = [lake / path for path in now.sha256 if path not in latest.files and path not in kept]
    # This lake is another one now, which must not take the place of this one in other stores.
    forgotten_bases = bases_of(lake) if discard or not known else []
    _move_into_place(lake, Base(store.url, latest), wanted, [*gone, *forgotten_bases], now)
    return Transfer(latest.number, True, len(moved), size_of(moved), len(gone), marks_kept=len(kept))


def _remove_remains(lake: Path) -> None:
    """What a pull has left that was killed; it may have rows of users who were forgotten since."""
    for name in (_INCOMING, _STAGED):
        shutil.rmtree(lake / STATE / name, ignore_errors=True)


def _differing(lake: Path, latest: Snapshot) -> int:
    with frozen(lake, latest.files) as now:
        return len(_missing(latest, now)) + len(now.sha256.keys() - latest.files.keys())


def _missing(latest: Snapshot, now: Frozen) -> dict[str, File]:
    return {path: file for path, file in latest.files.items() if now.sha256.get(path) != file.sha256}


def _is_mark(path: str) -> bool:
    return path.startswith(f"{MARKS}/")


def _kept_marks(lake: Path, latest: Snapshot, now: Frozen, theirs: Moved) -> set[str]:
    """Paths of the marks of forgotten users here that the snapshot lacks, or has with an earlier time. `theirs`: the
    snapshot's that differ, which are in `incoming`."""
    incoming = lake / STATE / _INCOMING
    later = {
        path for path, file in theirs.items() if _until_ms(lake / path) > _until_ms(incoming / file.sha256)
    }
    return later | {path for path in now.sha256 if _is_mark(path) and path not in latest.files}


def _until_ms(mark: Path) -> int:
    """A damaged one gives way to any other."""
    try:
        return read_json(mark, dict[str, int], InvalidData).get("until_ms", -1)
    except (FileNotFoundError, InvalidData):
        return -1


def _changed_here(base: Snapshot | None, latest: Snapshot, now: Frozen) -> list[str]:
    """Paths whose content here is neither that of the base nor that of the latest snapshot. Marks of forgotten users
    are merged, so they are none."""
    before = base.files if base else {}
    paths = {*now.sha256, *before}
    old = {path: file.sha256 for path, file in before.items()}
    new = {path: file.sha256 for path, file in latest.files.items()}
    return sorted(p for p in paths if now.sha256.get(p) not in (old.get(p), new.get(p)) and not _is_mark(p))


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
            if not store.download(name, temporary, file.size):
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
        _check_places(lake, wanted)
        shutil.rmtree(staged, ignore_errors=True)  # of a process that was killed
        for path, file in wanted.items():
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(incoming / file.sha256, staged / path)
        atomic_write(staged / STATE / base_name(base.url), msgspec.json.encode(base), fsync=True)
        commit(lake, staged, gone)
    _remove_remains(lake)


def _check_places(lake: Path, wanted: Iterable[str]) -> None:
    """Before the commit, which could not be finished."""
    parents = {str(parent) for path in wanted for parent in PurePosixPath(path).parents}
    wrong = [path for path in wanted if (lake / path).is_dir()]
    wrong += [path for path in sorted(parents) if (lake / path).is_file()]
    if wrong:
        raise InvalidConfig(
            f"{lake / wrong[0]} is a folder here and a file in the snapshot, or the reverse: move it away, and pull"
            " again"
        )
