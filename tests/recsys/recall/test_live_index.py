"""The live index equals a dictionary searched exactly: after any changes, during a rebuild, after a kill."""

import random
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.evaluation.benchmarks.index_stress import StressConfig, stress
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.recall.ann import IndexConfig
from recsys.recall.index_kind import Kind
from recsys.recall.journal import Change, Journal, Operation, replay
from recsys.recall.live_index import LiveIndex
from recsys.recall.snapshots import Base, Snapshots
from recsys.recall.vector_index import VectorIndex
from tests.recsys.recall import live_index_child as child

Floats = NDArray[np.float32]
D = 6


def vectors(n: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, D), np.float32)


def check(index: LiveIndex, items: dict[int, Floats], k: int = 10, d: int = D) -> None:
    """Length, vectors, and every search equal the items searched exactly."""
    assert len(index) == len(items)
    rows = np.array([*items, 99_999], np.int32)
    held = index.vectors(rows)
    assert not held[-1].any()
    queries = np.random.default_rng(1).standard_normal((4, d), np.float32)
    found = index.search(queries, k)
    assert found.rows.shape == (4, min(k, len(items)))
    if not items:
        return
    table = np.array(list(items.values()))
    np.testing.assert_array_equal(held[:-1], table)
    order = np.argsort(-(queries @ table.T), axis=1)[:, :k]
    np.testing.assert_array_equal(found.rows, rows[order])
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(queries @ table.T, order, axis=1), rtol=1e-4, atol=1e-5
    )


def test_fresh_items_are_found_and_removed_ones_are_not() -> None:
    table = vectors(50)
    index = LiveIndex.build(table)
    as_index: VectorIndex = index
    assert as_index.search(table[3:4] * 9, 1).of(0).tolist()
    index.upsert([70, 3], vectors(2, seed=5))
    index.remove([4, 70, 1234])
    items = dict(enumerate(table)) | {3: vectors(2, seed=5)[1]}
    del items[4]
    check(index, items)


def test_the_last_of_two_vectors_of_one_row_counts() -> None:
    index = LiveIndex.build(vectors(3))
    index.upsert([7, 7], vectors(2, seed=9))
    np.testing.assert_array_equal(index.vectors(np.array([7], np.int32))[0], vectors(2, seed=9)[1])
    assert len(index) == 4


Steps = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.lists(st.integers(0, 40), min_size=1, max_size=5)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, 40), min_size=1, max_size=8)),
        st.tuples(st.sampled_from(["rebuild", "reopen"]), st.just([])),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(Steps, st.integers(1, 60))
def test_any_sequence_of_changes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[int]]], k: int
) -> None:
    folder = tmp_path_factory.mktemp("live") / "index"
    table = vectors(20)
    items = dict(enumerate(table))
    index = LiveIndex.create(folder, Base.build(table), rebuild_at=None)
    for number, (step, rows) in enumerate(steps):
        if step == "upsert":
            new = vectors(len(rows), seed=number + 10)
            index.upsert(rows, new)
            items.update(zip(rows, new, strict=True))
        elif step == "remove":
            index.remove(rows)
            items = {row: vector for row, vector in items.items() if row not in rows}
        elif step == "rebuild":
            index.rebuild()
            assert index.pending == 0
        else:
            index.close()
            index = LiveIndex.open(folder, rebuild_at=None)
        check(index, items, k)
    index.close()


@pytest.mark.parametrize("kind", list(Kind))
def test_enough_is_found_despite_many_tombstones(kind: Kind) -> None:
    """All nearest neighbours are removed; an index that asks FAISS for only k would find nothing."""
    table = vectors(2000)
    query = np.ones((1, D), np.float32)
    order = np.argsort(-(table @ query[0]))
    index = LiveIndex.build(table, config=IndexConfig(kind, lists=4, effort=2000 if kind is Kind.HNSW else 4))
    index.remove(order[:1500].astype(np.int32))
    found = index.search(query, 20).of(0)
    assert len(found) == 20
    # 8-bit codes may swap neighbours
    assert len(set(found.tolist()) & set(order[1500:1520].tolist())) >= 17


def test_changes_during_a_rebuild_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    table = vectors(30)
    index = LiveIndex.build(table, rebuild_at=None)
    index.upsert([100, 101], vectors(2, seed=2))
    built, go = threading.Event(), threading.Event()
    original = Base.build

    def slow_build(*arguments: object) -> Base:
        base = original(*arguments)  # type: ignore[arg-type]
        built.set()
        assert go.wait(60)
        return base

    monkeypatch.setattr(Base, "build", slow_build)
    rebuild = threading.Thread(target=index.rebuild)
    rebuild.start()
    assert built.wait(60)
    index.upsert([5, 100, 200], vectors(3, seed=3))  # in the base, in the delta, new
    index.remove([6, 101, 200])
    items = dict(enumerate(table)) | {5: vectors(3, seed=3)[0], 100: vectors(3, seed=3)[1]}
    del items[6]
    check(index, items)
    go.set()
    rebuild.join()
    check(index, items)
    assert index.rebuilds == 1


def test_a_rebuild_starts_automatically_and_a_failed_one_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = LiveIndex.build(vectors(10), rebuild_at=5)
    with monkeypatch.context() as broken:
        broken.setattr(Base, "build", lambda *arguments: (_ for _ in ()).throw(MemoryError("full")))
        index.upsert(list(range(20, 25)), vectors(5, seed=1))
        index.close()
    assert index.rebuild_error == "MemoryError: full"
    assert len(index) == 15
    index.upsert(list(range(30, 35)), vectors(5, seed=2))
    index.close()
    assert (index.rebuild_error, index.rebuilds, index.pending) == ("", 1, 0)
    assert len(index) == 20


def test_invalid_changes_are_refused_as_a_whole() -> None:
    index = LiveIndex.build(vectors(5))
    with pytest.raises(ValueError, match="NaN"):
        index.upsert([8, 9], np.array([[1] * D, [np.nan] * D], np.float32))
    with pytest.raises(ValueError, match="is needed"):
        index.upsert([8], vectors(2))
    assert len(index) == 5


def test_searches_stay_correct_while_items_change() -> None:
    figures = stress(StressConfig(items=4000, dimension=32, seconds=3.0, rebuild_at=500, kind=Kind.FLAT))
    assert figures["failed_searches"] == 0
    assert figures["wrong_searches"] == 0
    assert figures["checked_results"] > 1000
    assert figures["rebuilds"] >= 1


@pytest.mark.slow
def test_a_killed_process_loses_no_accepted_change(tmp_path: Path) -> None:
    """Killed at random moments, also during rebuilds; the next process continues where the last one ended."""
    folder = tmp_path / "index"
    child.begin(folder).close()
    lives, number = random.Random(3), 0
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.recsys.recall.live_index_child", str(folder), str(number + 1)],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        until = number + lives.randint(30, 400)
        while number < until:
            number = int(process.stdout.readline())
        process.kill()
        accepted = [int(line) for line in process.stdout.read().splitlines() if line]
        process.wait()
        process.stdout.close()
        number = max([number, *accepted])
        index = LiveIndex.open(folder, rebuild_at=None)
        # the last change may not have been reported
        candidates = [child.expected(number), child.expected(number + 1)]
        matching = [
            i for i, items in enumerate(candidates) if len(items) == len(index) and _same(index, items)
        ]
        assert matching
        number += matching[-1]
        check(index, candidates[matching[-1]], d=child.D)
        index.close()


def _same(index: LiveIndex, items: dict[int, Floats]) -> bool:
    return bool(
        np.array_equal(index.vectors(np.array(list(items), np.int32)), np.array(list(items.values())))
    )


@pytest.mark.parametrize("room", [0, 5, 20])
def test_a_change_that_exceeds_disk_space_is_refused_and_later_ones_count(tmp_path: Path, room: int) -> None:
    """The process's file size limit stands in for a full disk: it also truncates a write."""
    table = vectors(10)
    index = LiveIndex.create(tmp_path, Base.build(table), rebuild_at=None)
    index.upsert([50], vectors(1, seed=1))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "1.journal").stat().st_size + room, limit[1]))
    try:
        with pytest.raises(OSError, match="journal|too large"):
            index.upsert([51], vectors(1, seed=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    index.upsert([52], vectors(1, seed=3))
    index.close()
    again = LiveIndex.open(tmp_path, rebuild_at=None)
    check(again, dict(enumerate(table)) | {50: vectors(1, seed=1)[0], 52: vectors(1, seed=3)[0]})
    again.close()


def test_folders_are_not_mixed_up(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="create one first"):
        LiveIndex.open(tmp_path / "none")
    base = Base.build(vectors(5))
    LiveIndex.create(tmp_path / "index", base).close()
    with pytest.raises(InvalidConfig, match="holds an index already"):
        LiveIndex.create(tmp_path / "index", base)


def test_a_crash_between_snapshot_and_pointer_reads_the_older_generation(tmp_path: Path) -> None:
    table = vectors(10)
    index = LiveIndex.create(tmp_path, Base.build(table), rebuild_at=None)
    index.upsert([50], vectors(1, seed=1))
    index._cut()  # a rebuild begins: journal 2 is open, generation 2 is not there
    index.upsert([51], vectors(1, seed=2))
    index.close()
    (tmp_path / ".2").mkdir()  # half written
    again = LiveIndex.open(tmp_path, rebuild_at=None)
    check(again, dict(enumerate(table)) | {50: vectors(1, seed=1)[0], 51: vectors(1, seed=2)[0]})
    again.rebuild()
    assert Snapshots(tmp_path).current() == 3
    assert {path.name for path in tmp_path.iterdir()} == {"CURRENT", "3", "3.journal"}
    again.close()


class TestJournal:
    changes = (
        Change(Operation.UPSERT, np.array([1, 2], np.int32), vectors(2)),
        Change(Operation.REMOVE, np.array([9], np.int32), np.empty((0, D), np.float32)),
        Change(Operation.UPSERT, np.array([3], np.int32), vectors(1, seed=1)),
    )

    def write(self, path: Path) -> bytes:
        journal = Journal(path, fsync=True)
        for change in self.changes:
            journal.append(change)
        journal.close()
        return path.read_bytes()

    def test_replay_returns_the_written_changes(self, tmp_path: Path) -> None:
        self.write(tmp_path / "j")
        found = list(replay(tmp_path / "j", D))
        assert len(found) == 3
        for change, wanted in zip(found, self.changes, strict=True):
            assert change.operation is wanted.operation
            np.testing.assert_array_equal(change.rows, wanted.rows)
            np.testing.assert_array_equal(change.vectors, wanted.vectors)
        assert list(replay(tmp_path / "missing", D)) == []

    def test_a_torn_last_record_is_cut_off(self, tmp_path: Path) -> None:
        path = tmp_path / "j"
        content = self.write(path)
        ends = [5 + 2 * 4 * (1 + D) + 4, 0, 0]
        ends[1] = ends[0] + 5 + 4 + 4
        ends[2] = len(content)
        for length in range(len(content) + 1):
            path.write_bytes(content[:length])
            whole = sum(end <= length for end in ends)
            assert len(list(replay(path, D))) == whole
            assert path.stat().st_size == ([0, *ends])[whole]

    def test_damage_before_the_last_record_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "j"
        content = bytearray(self.write(path))
        content[20] ^= 1
        path.write_bytes(content)
        with pytest.raises(InvalidData, match="byte 0 is damaged"):
            list(replay(path, D))
