"""A lake in an object store (moto's server): whole snapshots, by checksum, whoever dies."""

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("boto3")

from recsys.contracts.errors import InvalidConfig, InvalidData, Unavailable
from recsys.files import locked
from recsys.lake import commit as commit_module
from recsys.lake import mirror_pull, mirror_transfer
from recsys.lake.commit import rewriting, settle
from recsys.lake.mirror import pull, push, status
from recsys.lake.mirror_base import base_name
from recsys.lake.object_store import ObjectStore
from recsys.lake.snapshot import SNAPSHOT
from tests.killed import killed

A_DAY = "events/dt=2026-03-01"


def write(lake: Path, files: dict[str, str]) -> Path:
    """As every writer of the lake does: a new file in the place of the old one."""
    for name, text in files.items():
        new = lake / ".new"
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text)
        (lake / name).parent.mkdir(parents=True, exist_ok=True)
        new.rename(lake / name)
    return lake


def content(lake: Path) -> dict[str, str]:
    files = (path for path in lake.rglob("*") if path.is_file())
    found = {str(path.relative_to(lake)): path.read_text() for path in files}
    return {name: text for name, text in found.items() if not name.startswith(("_mirror/", "rewriting.lock"))}


BEFORE = {
    f"{A_DAY}/a.parquet": "a",
    f"{A_DAY}/b.parquet": "b",
    "items/items.parquet": "1",
    "_archive/checkpoint.json": "at 1",
}
AFTER = {
    f"{A_DAY}/day.parquet": "ab",
    "items/items.parquet": "2",
    "_archive/checkpoint.json": "at 2",
    "forget/u.json": "u",
}


def advance(lake: Path) -> None:
    """From `BEFORE` to `AFTER`."""
    write(lake, AFTER)
    for name in BEFORE.keys() - AFTER.keys():
        (lake / name).unlink()


def before_the_first(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, other: Callable[[], object]
) -> None:
    """Do something else just before the first call of a method."""
    original = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(owner, name, original)
        other()
        return original(*arguments, **named)

    monkeypatch.setattr(mirror_transfer, "_TRANSFERS", 1)
    monkeypatch.setattr(owner, name, call)


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return ObjectStore(f"s3://{bucket}/some/lake")


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return write(tmp_path / "lake", BEFORE)


def test_another_machine_pulls_what_was_pushed(lake: Path, store: ObjectStore, tmp_path: Path) -> None:
    here = {
        "_archive/lock": "",
        "_archive/heartbeat": "",
        "_archive/writing/items/items.parquet": "3",
        ".staging-1/x": "",
    }
    write(lake, here | {"_import~1/items/items.parquet": "4"})
    assert push(lake, store).files == len(BEFORE)
    pulled = pull(tmp_path / "other", store)
    assert pulled is not None and (pulled.snapshot, pulled.files, pulled.changed) == (1, len(BEFORE), True)
    assert content(tmp_path / "other") == BEFORE
    again = pull(tmp_path / "other", store)
    assert again is not None and not again.changed


def test_only_what_changed_is_moved_and_nothing_else_stays(
    lake: Path, store: ObjectStore, tmp_path: Path
) -> None:
    push(lake, store)
    pull(tmp_path / "other", store)
    assert not push(lake, store).changed
    foreign = write(tmp_path / "foreign", {"x": "of somebody else"}) / "x"
    store.upload("events/README.md", foreign)
    advance(lake)
    write(lake, {"events/dt=2026-03-02/a.parquet": "a"})  # the content of another file, at a path of its own
    done = push(lake, store)
    assert (done.snapshot, done.files, done.deleted) == (2, 5, 4)
    names = store.sizes().keys()
    assert names == {SNAPSHOT, "events/README.md"} | {n for n in names if ".2-" in n}
    assert len(names) == 2 + 5
    pulled = pull(tmp_path / "other", store)
    assert pulled is not None and pulled.deleted == 2
    assert content(tmp_path / "other") == content(lake)


def test_a_lake_of_another_machine_is_not_overwritten(lake: Path, store: ObjectStore, tmp_path: Path) -> None:
    push(lake, store)
    other = tmp_path / "other"
    with pytest.raises(InvalidConfig, match="was not made from"):
        push(write(other, {"items/items.parquet": "3"}), store)
    with pytest.raises(InvalidConfig, match=r"1 changed files .*items/items\.parquet.*--discard"):
        pull(other, store)
    pull(other, store, discard=True)
    advance(other)
    push(other, store)  # now the other one has it
    write(lake, {"events/dt=2026-03-02/c.parquet": "late"})
    with pytest.raises(InvalidConfig, match="snapshot 2 of"):
        push(lake, store)
    with pytest.raises(InvalidConfig, match="--discard"):
        pull(lake, store)
    assert status(lake, store)[-2:] == (1, 1)
    pull(lake, store, discard=True)
    assert content(lake) == AFTER
    assert status(lake, store)[-2:] == (2, 0)


@pytest.mark.parametrize("discard", [False, True])
def test_no_pull_removes_the_mark_of_a_forgotten_user(
    lake: Path, store: ObjectStore, tmp_path: Path, discard: bool
) -> None:
    push(lake, store)
    other, mark = tmp_path / "other", {"forget/v.json": "v"}
    pull(other, store)
    write(other, mark)
    advance(lake)
    push(lake, store)
    pull(other, store, discard=discard)
    assert content(other) == AFTER | mark
    push(other, store)
    pull(lake, store)
    assert content(lake) == AFTER | mark


@pytest.mark.parametrize("discard", [False, True])
@pytest.mark.parametrize(("here", "there"), [(5, 3), (3, 5)])
def test_the_later_mark_of_a_forgotten_user_stays(
    lake: Path, store: ObjectStore, tmp_path: Path, here: int, there: int, discard: bool
) -> None:
    push(lake, store)
    other, mark = tmp_path / "other", "forget/v.json"
    pull(other, store)
    write(other, {mark: f'{{"until_ms": {here}}}'})
    write(lake, {mark: f'{{"until_ms": {there}}}'})
    push(lake, store)
    pull(other, store, discard=discard)
    assert content(other) == BEFORE | {mark: '{"until_ms": 5}'}


def test_a_mark_that_the_store_has_lost_stays(lake: Path, store: ObjectStore, tmp_path: Path) -> None:
    advance(lake)
    push(lake, store)
    other = tmp_path / "other"
    pull(other, store)
    (lake / "forget/u.json").unlink()
    push(lake, store)
    pull(other, store, discard=True)
    assert content(other) == AFTER


def test_a_lake_is_pushed_to_two_places(lake: Path, store: ObjectStore, tmp_path: Path) -> None:
    second = ObjectStore(f"{store.url}-2")
    for place in (store, second):
        push(lake, place)
    advance(lake)
    for place in (store, second):
        assert push(lake, place).snapshot == 2
    pull(tmp_path / "other", second)
    assert content(tmp_path / "other") == AFTER


def test_a_lake_that_was_given_up_is_not_replaced_in_other_places(
    lake: Path, store: ObjectStore, tmp_path: Path
) -> None:
    second = ObjectStore(f"{store.url}-2")
    push(lake, store)
    push(write(tmp_path / "other", {"items/items.parquet": "3"}), second)
    pull(lake, second, discard=True)
    with pytest.raises(InvalidConfig, match="was not made from"):
        push(lake, store)


def test_a_pull_of_the_same_snapshot_tells_what_was_changed_here(
    lake: Path, store: ObjectStore, tmp_path: Path
) -> None:
    push(lake, store)
    other = tmp_path / "other"
    pull(other, store)
    write(other, {"items/items.parquet": "2", "items/new.parquet": "3"})
    (other / A_DAY / "a.parquet").unlink()
    done = pull(other, store)
    assert done is not None and (done.changed, done.differing) == (False, 3)
    write(other, {"forget/v.json": "v"})
    done = pull(other, store, discard=True)
    assert done is not None and (done.files, done.deleted, done.marks_kept) == (2, 1, 1)
    assert content(other) == BEFORE | {"forget/v.json": "v"}
    done = pull(other, store)
    assert done is not None and done.differing == 1


def test_of_two_pushes_at_once_one_is_refused(
    lake: Path, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(lake, store)
    other = tmp_path / "other"
    pull(other, store)
    advance(other)
    write(lake, {"items/items.parquet": "3"})
    before_the_first(monkeypatch, ObjectStore, "upload", lambda: push(other, store))
    with pytest.raises(InvalidConfig, match="snapshot 2 of"):
        push(lake, store)
    pull(tmp_path / "third", store)
    assert content(tmp_path / "third") == AFTER


@pytest.mark.parametrize("how", ["anew", "older"])
def test_a_store_with_another_history_is_not_pulled_over_a_lake(
    lake: Path, store: ObjectStore, tmp_path: Path, how: str
) -> None:
    push(lake, store)
    first = store.read(SNAPSHOT)
    assert first is not None
    advance(lake)
    push(lake, store)
    store.delete([SNAPSHOT])
    if how == "anew":
        push(write(tmp_path / "other", {"items/items.parquet": "3"}), store)
    else:
        assert store.replace(SNAPSHOT, first.content, None)
    with pytest.raises(InvalidConfig, match="older than snapshot 2 that .* or of another lake"):
        push(lake, store)
    with pytest.raises(InvalidConfig, match="--discard"):
        pull(lake, store)
    assert content(lake) == AFTER


def test_a_lake_in_a_folder_below_is_not_garbage(lake: Path, store: ObjectStore, bucket: str) -> None:
    push(lake, store)
    before = store.sizes()
    for above in (f"s3://{bucket}/some", f"s3://{bucket}"):
        with pytest.raises(InvalidConfig, match="some/lake is a lake of its own"):
            push(lake, ObjectStore(above))
    assert store.sizes() == before


# --- processes that are killed ----------------------------------------------------------------------------------


ON_DISK: list[tuple[type, str]] = [(Path, "rename"), (Path, "hardlink_to"), (Path, "unlink")]
IN_STORE: list[tuple[type, str]] = [
    (ObjectStore, name) for name in ("upload", "replace", "delete", "download")
]


def anew(work: Callable[[Path, ObjectStore], object], lake: Path, store: ObjectStore) -> None:
    """With a client of its own: a forked one would share the parent's connections."""
    work(lake, ObjectStore(store.url))


@pytest.mark.slow
def test_a_killed_push_leaves_the_old_lake_or_the_new_one(bucket: str, tmp_path: Path) -> None:
    seen = []
    for step in range(1_000):
        lake, store = write(tmp_path / f"lake-{step}", BEFORE), ObjectStore(f"s3://{bucket}/{step}")
        push(lake, store)
        advance(lake)
        if not killed(step, ON_DISK + IN_STORE, partial(anew, push, lake, store)):
            break
        other = tmp_path / f"other-{step}"
        pull(other, store)
        assert content(other) in (BEFORE, AFTER)
        seen.append(content(other) == AFTER)
        before = store.sizes()
        done = push(lake, store)  # with the next of its pushes all is as if nothing had happened
        assert done.files == len(AFTER) - sum(".2-" in name for name in before)
        assert len(store.sizes()) == len(AFTER) + 1
        pull(other, store)
        assert content(other) == AFTER
    assert seen == sorted(seen)
    assert seen.count(False) > len(AFTER)
    assert seen.count(True) >= 2


@pytest.mark.slow
def test_a_killed_pull_leaves_the_old_lake_or_the_new_one(
    lake: Path, store: ObjectStore, tmp_path: Path
) -> None:
    push(lake, store)
    pull(tmp_path / "before", store)
    advance(lake)
    push(lake, store)
    seen = []
    for step in range(1_000):
        other = tmp_path / f"other-{step}"
        shutil.copytree(tmp_path / "before", other)
        if not killed(step, ON_DISK + IN_STORE, partial(anew, pull, other, store)):
            break
        settle(other)  # as every reader does
        assert content(other) in (BEFORE, AFTER)
        seen.append(content(other) == AFTER)
        done = pull(other, store)
        assert done is not None and done.changed != seen[-1]
        assert content(other) == AFTER
    assert seen == sorted(seen)
    assert seen.count(False) > len(AFTER)
    assert seen.count(True) > len(AFTER)


def test_what_an_interrupted_pull_has_is_not_read_again(
    lake: Path, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(lake, store)
    monkeypatch.setattr(mirror_pull, "commit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pull(tmp_path / "other", store)
    monkeypatch.undo()
    done = pull(tmp_path / "other", store)
    assert done is not None and (done.files, content(tmp_path / "other")) == (0, BEFORE)


def test_a_push_after_a_pull_that_was_killed_in_its_commit(
    lake: Path, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(lake, store)
    other = tmp_path / "other"
    monkeypatch.setattr(commit_module, "_finish", lambda lake: None)
    pull(other, store)
    monkeypatch.undo()
    assert (other / "_commit").exists()
    assert not push(other, store).changed


def test_a_pull_leaves_nothing_of_a_killed_one(lake: Path, store: ObjectStore, tmp_path: Path) -> None:
    push(lake, store)
    other = tmp_path / "other"
    pull(other, store)
    remains = {
        "_mirror/incoming/ab": "rows of the forgotten",
        "_mirror/staged/items/items.parquet": "and more",
    }
    write(other, remains)  # it was killed after its commit
    pull(other, store)
    assert not [name for name in remains if (other / name).exists()]


def test_what_cannot_be_linked_is_copied(
    lake: Path, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "of somebody else", str(target))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    push(lake, store)
    pull(tmp_path / "other", store)
    assert content(tmp_path / "other") == BEFORE


@pytest.mark.parametrize(
    ("kind", "message"),
    [("base", "remove it, and then `recsys lake pull --discard`$"), ("next", "remove it$")],
)
def test_a_damaged_base_is_named(lake: Path, store: ObjectStore, kind: str, message: str) -> None:
    push(lake, store)
    write(lake, {f"_mirror/{base_name(store.url, kind)}": "{"})
    with pytest.raises(InvalidData, match=message):
        push(lake, store)


# --- what others do to the store --------------------------------------------------------------------------------


def an_object(store: ObjectStore, of: str) -> str:
    (name,) = (name for name in store.sizes() if name.startswith(of))
    return name


def test_a_lost_object_is_named_and_the_next_push_uploads_it(
    lake: Path, store: ObjectStore, tmp_path: Path
) -> None:
    push(lake, store)
    store.delete([an_object(store, "items/")])
    with pytest.raises(InvalidData, match=r"items/items\.1-.*is not there any more: the next push"):
        pull(tmp_path / "other", store)
    assert content(tmp_path / "other") == {}
    assert push(lake, store)[:3] == (2, True, 1)
    pull(tmp_path / "other", store)
    assert content(tmp_path / "other") == BEFORE


def test_objects_of_a_lost_history_do_not_stay(lake: Path, store: ObjectStore) -> None:
    push(lake, store)
    advance(lake)
    push(lake, store)
    store.delete([SNAPSHOT])
    write(lake, {"items/items.parquet": "3"})
    push(lake, store)
    assert len(store.sizes()) == len(AFTER) + 1


def test_a_damaged_object_is_refused(lake: Path, store: ObjectStore, tmp_path: Path) -> None:
    push(lake, store)
    name = an_object(store, "items/")
    store.upload(name, write(tmp_path / "damage", {"x": "9"}) / "x")
    with pytest.raises(InvalidData, match=r"items\.1-.* has another content than was pushed: delete it"):
        pull(tmp_path / "other", store)
    assert content(tmp_path / "other") == {}
    store.delete([name])
    push(lake, store)
    pull(tmp_path / "other", store)
    assert content(tmp_path / "other") == BEFORE


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"{", b"[", "not a snapshot of a lake"),
        (b'"format":1', b'"format":2', "format 2; this version reads 1"),
        (b"items/items.parquet", b"../items.parquet", "no file of a lake"),
        (b"items/items.parquet", b"/etc/items.parquet", "no file of a lake"),
        (b"items/items.parquet", b"_mirror/base.json", "no file of a lake"),
        (b"items/items.parquet", b"items//items.parquet", "no file of a lake"),
        (b"items/items.parquet", b"events", "is below a file"),
        (b'"size":1', b'"size":-1', "not a snapshot of a lake"),
        (b'"since":1', b'"since":0', "not a snapshot of a lake"),
        (b'"number":1', b'"number":-1', "not a snapshot of a lake"),
    ],
)
def test_a_damaged_snapshot_is_refused(
    lake: Path, store: ObjectStore, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    push(lake, store)
    read = store.read(SNAPSHOT)
    assert read is not None
    assert store.replace(SNAPSHOT, read.content.replace(old, new), read.version)
    for work in (pull, push):
        with pytest.raises(InvalidData, match=message):
            work(tmp_path / "lake", store)


def test_a_push_during_a_pull_is_pulled_instead(
    lake: Path, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(lake, store)

    def overtake() -> None:
        advance(lake)
        push(lake, store)

    before_the_first(monkeypatch, ObjectStore, "download", overtake)
    done = pull(tmp_path / "other", store)
    assert done is not None and done.snapshot == 2
    assert content(tmp_path / "other") == AFTER


def test_a_lost_answer_is_no_conflict(
    lake: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(lake, store)
    advance(lake)
    replace = ObjectStore.replace
    monkeypatch.setattr(
        ObjectStore, "replace", lambda *a: replace(*a) and False
    )  # the SDK repeated the request
    assert push(lake, store).snapshot == 2
    monkeypatch.undo()
    assert not push(lake, store).changed


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
def test_a_store_without_conditional_writes_is_refused(
    lake: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    def unconditional(self: ObjectStore, name: str, content: bytes, version: str | None) -> bool:
        if ignored == ("If-None-Match" if version is None else "If-Match"):
            read = self.read(name)
            version = read.version if read else None
        return replace(self, name, content, version)

    replace = ObjectStore.replace
    with monkeypatch.context() as changed:
        changed.setattr(ObjectStore, "replace", unconditional)
        with pytest.raises(InvalidConfig, match=f"ignores {ignored},"):
            push(lake, store)
    assert store.read(SNAPSHOT) is None
    push(lake, store)
    before = store.read(SNAPSHOT)
    advance(lake)
    monkeypatch.setattr(ObjectStore, "replace", unconditional)  # the bucket was copied to another store
    with pytest.raises(InvalidConfig, match=f"ignores {ignored},"):
        push(lake, store)
    after = store.read(SNAPSHOT)
    assert before is not None
    assert after is not None
    assert after.content == before.content


# --- what others do to the lake ---------------------------------------------------------------------------------


def test_compaction_during_a_push_is_in_it_as_a_whole(
    lake: Path, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_the_first(monkeypatch, Path, "hardlink_to", lambda: advance(lake))
    push(lake, store)
    pull(tmp_path / "other", store)
    assert content(tmp_path / "other") == AFTER


def test_a_lake_that_is_written_while_it_is_pulled_stays_as_it_is(
    lake: Path, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(lake, store)
    other = tmp_path / "other"
    before_the_first(monkeypatch, ObjectStore, "download", lambda: write(other, {"items/items.parquet": "3"}))
    with pytest.raises(InvalidConfig, match="was changed while it was pulled"):
        pull(other, store)
    assert content(other) == {"items/items.parquet": "3"}


def test_what_others_do_now_is_waited_out(
    lake: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(lake / "_mirror/lock"), pytest.raises(Unavailable, match="by another process; wait for it"):
        push(lake, store)
    numbers, link = count(), Path.hardlink_to

    def compacting(self: Path, target: Path) -> None:
        write(lake, {"items/items.parquet": str(next(numbers))})
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", compacting)
    with pytest.raises(Unavailable, match="changes all the time"):
        push(lake, store)


@pytest.mark.parametrize("path", ["items", "items/items.parquet/1.parquet"])
def test_a_lake_with_a_folder_in_the_place_of_a_file_stays_as_it_is(
    lake: Path, store: ObjectStore, tmp_path: Path, path: str
) -> None:
    push(write(tmp_path / "other", {path: "x"}), store)
    with pytest.raises(InvalidConfig, match="is a folder here and a file in the snapshot, or the reverse"):
        pull(lake, store, discard=True)
    with rewriting(lake):  # nothing to finish
        assert content(lake) == BEFORE


def test_an_empty_lake_replaces_none(lake: Path, store: ObjectStore, tmp_path: Path) -> None:
    push(lake, store)
    for path in BEFORE:
        (lake / path).unlink()
    for empty in (lake, tmp_path / "other"):
        with pytest.raises(InvalidConfig, match=r"nothing to push|was not made from"):
            push(empty, store)
    pull(tmp_path / "other", store)
    assert content(tmp_path / "other") == BEFORE


def test_a_folder_that_cannot_be_listed_is_not_deleted(
    lake: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(lake, store)
    scandir = os.scandir

    def failing(path: Any) -> Any:
        if str(path).endswith(A_DAY):
            raise PermissionError(errno.EACCES, "no", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(InvalidData, match="dt=2026-03-01: cannot be listed: no"):
        push(lake, store)
    assert an_object(store, f"{A_DAY}/a.")


def test_links_are_refused(lake: Path, store: ObjectStore, tmp_path: Path) -> None:
    (lake / "events").rename(tmp_path / "elsewhere")
    (lake / "events").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidData, match="events is a link"):
        push(lake, store)
