"""Which snapshot of each store a lake was made from: `lake/_mirror/`, not part of the lake."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from recsys.contracts.errors import InvalidData, Unavailable
from recsys.files import atomic_write, locked
from recsys.lake.commit import settle
from recsys.lake.object_store import ObjectStore, Read
from recsys.lake.snapshot import SNAPSHOT, STATE, Snapshot, parse_snapshot
from recsys.operator_files import read_json

_BASE, _NEXT = "base", "next"


class Base(msgspec.Struct, frozen=True):
    """The snapshot that this lake was made from, and where it is."""

    url: str
    snapshot: Snapshot


@contextmanager
def one_at_a_time(lake: Path) -> Iterator[None]:
    """Raises `Unavailable`: another process is at it."""
    with ExitStack() as opened:
        try:
            opened.enter_context(locked(lake / STATE / "lock", wait=False))
        except BlockingIOError as error:
            raise Unavailable(
                f"{lake} is being pushed, pulled or compared by another process; wait for it"
            ) from error
        settle(lake)  # the base is part of what a pull commits
        yield


def latest_of(store: ObjectStore) -> Snapshot | None:
    return parsed(store, store.read(SNAPSHOT))


def parsed(store: ObjectStore, read: Read | None) -> Snapshot | None:
    return None if read is None else parse_snapshot(read.content, f"{store.url}/{SNAPSHOT}")


def is_base(lake: Path, store: ObjectStore, latest: Snapshot) -> bool:
    """Whether this lake was made from it, or has made it: a push that was killed behind its commit left its
    announcement."""
    base, after = base_of(lake, store), base_of(lake, store, _NEXT)
    if after and after.id == latest.id and base != after:
        atomic_write(
            lake / STATE / base_name(store.url), msgspec.json.encode(Base(store.url, after)), fsync=True
        )
        return True
    return base is not None and base.id == latest.id


def ancestor_of(latest: Snapshot, base: Snapshot) -> bool:
    """Whether `latest` can have been made from `base`. If not, the store has an older snapshot or another lake, and
    a file that is as it was in the base is not one that the store has deleted."""
    return base.lineage == latest.lineage and (base.number < latest.number or base.id == latest.id)


def base_name(url: str, kind: str = _BASE) -> str:
    return f"{kind}-{hashlib.sha256(url.encode()).hexdigest()[:16]}.json"


def bases_of(lake: Path) -> list[Path]:
    """The files of all stores."""
    return [path for kind in (_BASE, _NEXT) for path in (lake / STATE).glob(f"{kind}-*.json")]


def base_of(lake: Path, store: ObjectStore, kind: str = _BASE) -> Snapshot | None:
    """None: this lake has nothing to do with that store."""
    try:
        base = read_json(lake / STATE / base_name(store.url, kind), Base, InvalidData)
    except FileNotFoundError:
        return None
    except InvalidData as error:
        then = (
            ", and then `recsys lake pull --discard`" if kind == _BASE else ""
        )  # nobody needs the other one
        raise InvalidData(f"{error}; remove it{then}") from error
    return base.snapshot if base.url == store.url else None


def announce(lake: Path, base: Base) -> None:
    """Before a push commits: `is_base` then knows the snapshot, also after a crash."""
    atomic_write(lake / STATE / base_name(base.url, _NEXT), msgspec.json.encode(base), fsync=True)
