"""From sequence files to batches: known answers, nothing lost, the same batches for the same seed."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import Item, User
from recsys.models.attributes import profile_rows
from training.choices import Augmentation
from training.two_tower.augment import augmenter
from training.two_tower.batches import BatchPlan, Targets, Windows, epoch_batches, make_batch
from training.two_tower.prefetch import Prefetcher
from training.two_tower.repeats import BeforeLast
from training.two_tower.sequences import (
    BeforeTime,
    History,
    Profiles,
    SequenceFiles,
    keep_all,
    write_sequences,
)

ITEMS = [Item(f"i{n}") for n in range(9)]


def history(user: str, *numbers: int) -> History:
    n = len(numbers)
    return History(user, np.array(numbers), np.full(n, 2), 1_000 * np.arange(1, n + 1))


def test_batch_by_hand() -> None:
    batch = make_batch([history("u", 5, 6, 7), history("v", 8)], max_length=10)
    assert batch.history.tolist() == [[0, 5, 6], [0, 0, 0]]
    assert batch.types.tolist() == [[0, 2, 2], [0, 0, 0]]
    assert batch.gaps.tolist() == [[0, 2, 2], [0, 0, 0]]  # a second to the next event
    assert batch.targets.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch.n_targets == 4
    assert [batch.shard(r, 2).targets.tolist() for r in (0, 1)] == [[[5, 6, 7]], [[0, 0, 8]]]


def test_a_long_history_keeps_its_newest_events_and_their_context() -> None:
    batch = make_batch([history("u", 1, 2, 3, 4, 5)], max_length=3)
    assert batch.history.tolist() == [[2, 3, 4]]
    assert batch.targets.tolist() == [[3, 4, 5]]


def test_an_item_of_before_is_no_target() -> None:
    back_and_forth = [history("u", 1, 1, 2, 1, 3)]
    assert make_batch(back_and_forth, 10).targets.tolist() == [[1, 0, 2, 0, 3]]
    repeats = Targets(repeats=True)
    assert make_batch(back_and_forth, 10, repeats).targets.tolist() == [[1, 0, 2, 1, 3]]


def test_targets_follow_what_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    times = np.array([0, 5, 50_000, 50_001, 90_000, 99_000])
    views = History("u", np.array([1, 1, 2, 3, 3, 2]), np.array([2, 6, 2, 6, 6, 6]), times)
    assert Targets().of(views, rng).tolist() == [True, False, True, True, False, False]
    wanted = Targets(wanted=6).of(views, rng)  # 2 got its event later, in another moment
    assert wanted.tolist() == [True, False, False, True, False, False]
    again = Targets(repeats=True, wanted=6).of(views, rng)
    assert again.tolist() == [True, False, False, True, False, True]


def test_older_targets_are_trained_on_less_often() -> None:
    rng = np.random.default_rng(0)
    old = History("u", np.arange(1, 4), np.full(3, 2), np.array([0, 1_000, 2_000]))
    rule = Targets(half_life_ms=1_000, newest_ms=2_000)
    often = np.mean([rule.of(old, rng) for _ in range(4_000)], axis=0)
    np.testing.assert_allclose(often, [0.25, 0.5, 1.0], atol=0.03)


def test_profiles_are_those_of_the_attributes_that_serving_keeps() -> None:
    users = [User("u", {"age": "24", "gender": "M", "zip": "1"}), User("v", {"zip": "2"})]
    profiles = Profiles(users, {"age", "gender"}).of([history("u", 1), history("v", 1), history("w", 1)])
    assert np.count_nonzero(profiles, axis=1).tolist() == [2, 0, 0]
    assert profiles[0].tolist() == profile_rows({"gender": "M", "age": "24"}).tolist()
    assert make_batch([history("u", 5)], 10, profiles=Profiles(users, {"age"})).profile.any()


@pytest.fixture
def files(tmp_path: Path) -> SequenceFiles:
    rng = np.random.default_rng(0)
    users = [history(f"u{u}", *rng.permutation(9)[: 1 + u % 9] + 1) for u in range(100)]
    write_sequences(tmp_path / "a.parquet", users[:60], ITEMS, row_group=16)
    write_sequences(tmp_path / "b.parquet", users[60:], ITEMS, row_group=16)
    return SequenceFiles(tmp_path, ITEMS)


@pytest.mark.parametrize("windows", Windows)
def test_every_event_is_a_target_once_an_epoch(files: SequenceFiles, windows: Windows) -> None:
    plan = BatchPlan(max_length=4, tokens=16, windows=windows, shuffled_users=32, pooled_users=8)
    expected: Counter[int] = Counter()
    for h in files.read():
        expected.update(h.numbers[-4:].tolist() if windows is Windows.NEWEST else h.numbers.tolist())
    batches = list(epoch_batches(files, keep_all, plan, seed=1, epoch=0))
    found = Counter(n for batch, _ in batches for n in batch.targets.ravel().tolist() if n)
    assert found == expected
    assert all(batch.targets.size <= 16 for batch, _ in batches)
    assert [read for _, read in batches][-1] == files.users == 100


def test_batches_follow_from_seed_and_epoch(files: SequenceFiles) -> None:
    def epoch(seed: int, number: int) -> list[list[int]]:
        batches = epoch_batches(files, keep_all, BatchPlan(4, 16), seed, number)
        return [batch.targets.ravel().tolist() for batch, _ in batches]

    assert epoch(1, 0) == epoch(1, 0)
    assert epoch(1, 0) != epoch(1, 1) != epoch(2, 1)


def test_cuts_leave_the_future_out(files: SequenceFiles) -> None:
    plan = BatchPlan(50, 64)
    last = {h.user_id: h.numbers[-1] for h in files.read()}
    assert len(last) == 100
    kept = sum(batch.n_targets for batch, _ in epoch_batches(files, BeforeLast(), plan, 0, 0))
    assert kept == sum(max(len(h.numbers) - 1, 1) for h in files.read())  # one item alone is not cut
    around = history("u", 1, 2, 2, 3, 1, 2)
    assert (BeforeLast()(around), BeforeLast(repeats=True)(around)) == (3, 5)
    assert BeforeLast()(around.before(0)) == 0
    assert [BeforeTime(t)(history("u", 1, 2, 3)) for t in (0, 1_000, 2_001, 9_000)] == [0, 0, 2, 3]


def test_unknown_items_are_left_out_and_their_gap_bridged(tmp_path: Path) -> None:
    write_sequences(tmp_path / "a.parquet", [history("u", 1, 2, 3), history("v", 2)], ITEMS)
    (only,) = SequenceFiles(tmp_path, [ITEMS[0], ITEMS[2]]).read()  # the table lacks i1
    assert only.numbers.tolist() == [1, 2]
    assert only.times.tolist() == [1_000, 3_000]


def test_no_files_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="features build"):
        SequenceFiles(tmp_path, ITEMS)


def test_prefetching_keeps_order_and_raises_what_was_raised() -> None:
    def source() -> Iterator[int]:
        yield from range(50)
        raise InvalidData("broken")

    seen: list[int] = []
    with pytest.raises(InvalidData, match="broken"):
        for item in Prefetcher(source(), ahead=2):
            seen.append(item)  # noqa: PERF402 - `extend` would lose them at the error
    assert seen == list(range(50))
    assert list(Prefetcher(iter(range(50)), ahead=2)) == list(range(50))


@pytest.mark.parametrize("kind", [k for k in Augmentation if k is not Augmentation.NONE])
def test_augmentation_changes_some_and_keeps_the_rest(kind: Augmentation) -> None:
    neighbours = np.tile(np.array([[7, 8]], np.int32), (9, 1))
    change = augmenter(kind, rate=0.3, share=1.0, neighbours=neighbours)
    assert change is not None
    before = history("u", *range(1, 10), *range(1, 8))
    after = change(before, np.random.default_rng(0))
    assert after.numbers.tolist() != before.numbers.tolist()
    assert len(after.numbers) == len(after.times) == len(after.types)
    assert (np.diff(after.times) >= 0).all()
    if kind in (Augmentation.REORDER, Augmentation.SHUFFLE):
        assert sorted(after.numbers) == sorted(before.numbers)
    if kind is Augmentation.SHUFFLE:
        typed = before._replace(types=before.numbers * 3)
        shuffled = change(typed, np.random.default_rng(0))
        assert shuffled.types.tolist() == (shuffled.numbers * 3).tolist(), "each event keeps its type"
    if kind is Augmentation.SUBSTITUTE:
        assert set(after.numbers[after.numbers != before.numbers].tolist()) <= {8, 9}
