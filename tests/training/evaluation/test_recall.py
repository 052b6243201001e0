"""Splits that do not leak, baselines against brute force, and the evaluation command's whole run on tiny data."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import EventType, Item
from recsys.models.encoding import TYPE_NUMBERS
from training.choices import Augmentation, Protocol
from training.evaluation import baselines
from training.evaluation.baselines import TrainingHistories
from training.evaluation.protocols import leave_one_out, read_ordered_sequences, temporal, temporal_shares
from training.evaluation.recall import RecallEvaluation, main, slice_cases, training_config
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig
from training.two_tower.cooccurrence import filled_up, interactions, item_neighbours, popularity
from training.two_tower.retrieval import Cases, next_item_ranks
from training.two_tower.sequences import History
from training.two_tower.train import OnProgress, TwoTowerResult

CLICK, PURCHASE = TYPE_NUMBERS[EventType.CLICK], TYPE_NUMBERS[EventType.PURCHASE]
ITEMS = [Item(str(n)) for n in range(12)]


def history(user: str, *numbers: int, start_ms: int = 0, kind: int = CLICK) -> History:
    n = len(numbers)
    return History(user, np.array(numbers), np.full(n, kind), start_ms + 10_000 * np.arange(1, n + 1))


def test_leave_one_out_by_hand() -> None:
    split = leave_one_out([history("u", 4, 5, 6, 7)], ITEMS)
    assert [h.numbers.tolist() for h in split.train] == [[4, 5]]
    assert (split.validation.histories[0].numbers.tolist(), split.validation.targets.tolist()) == (
        [4, 5],
        [5],
    )
    assert [h.numbers.tolist() for h in split.refit] == [[4, 5, 6]]
    assert (split.test.histories[0].numbers.tolist(), split.test.targets.tolist()) == ([4, 5, 6], [6])
    with pytest.raises(InvalidData, match="short"):
        leave_one_out([history("short", 1, 2)], ITEMS)


def test_temporal_asks_for_each_new_item_with_all_that_was_before() -> None:
    split = temporal(
        [history("u", 1, 2, 3, 2, 4), history("late", 5, start_ms=45_000)], ITEMS, 20_000, 30_000
    )
    assert [h.numbers.tolist() for h in split.train] == [[1]]
    assert [h.numbers.tolist() for h in split.refit] == [[1, 2]]
    asked = [
        (h.numbers.tolist(), int(t)) for h, t in zip(split.test.histories, split.test.targets, strict=True)
    ]
    assert asked == [([1, 2], 2), ([1, 2, 3, 2], 3), ([], 4)]  # not the second 2: seen items are filtered
    assert split.test.now_ms == [30_000, 50_000, 55_000]
    for cases, begins in ((split.validation, 20_000), (split.test, 30_000)):
        assert all(now >= begins for now in cases.now_ms)


def test_only_items_that_got_the_wanted_event_at_once_are_asked_for() -> None:
    clicks_and_views = History(
        "u",
        np.array([1, 1, 2, 3, 3]),
        np.array([CLICK, PURCHASE, CLICK, CLICK, PURCHASE]),
        np.array([50_000, 50_001, 60_000, 70_000, 90_000]),
    )
    before = history("v", 1, 2)
    split = temporal([before, clicks_and_views], ITEMS, 10_000, 40_000)
    assert split.test.targets.tolist() == [0, 1, 2]
    viewed = [History("w", np.array([9, 9]), np.array([CLICK, PURCHASE]), np.array([20_000, 20_001]))]
    split = temporal([*viewed, clicks_and_views], ITEMS, 10_000, 40_000, EventType.PURCHASE)
    assert split.test.targets.tolist() == [0]  # 3 was viewed later, 2 never
    assert split.test.histories[0].numbers.tolist() == []  # its own click is not in the question


def test_shares_split_by_time() -> None:
    histories = [history("u", *range(1, 11)), history("v", *range(1, 11), start_ms=3)]
    split = temporal_shares(histories, ITEMS)
    assert sum(len(h.numbers) for h in split.refit) == 18
    assert len(split.test) == len(split.validation) == 2


HISTORIES = [
    history(f"u{u}", *(np.random.default_rng(u).permutation(12)[: 3 + u % 5] + 1)) for u in range(40)
]


def test_neighbours_by_brute_force() -> None:
    seen = interactions(HISTORIES, 12)
    dense = seen.toarray()
    both = dense.T @ dense
    counts = np.diag(both).copy()
    expected = both / (np.sqrt(np.outer(counts, counts)) + 2.0)
    np.fill_diagonal(expected, 0)
    neighbours, scores = item_neighbours(seen, m=5, shrink=2.0, pairs=30)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :5], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, neighbours.astype(int), 1), scores, rtol=1e-5)
    ties = np.argsort(-expected.astype(np.float32), axis=1, kind="stable")[:, :5]
    assert np.array_equal(neighbours, np.where(scores > 0, ties, -1))  # in the order of the rows
    whole = item_neighbours(seen, m=5, shrink=2.0)
    assert np.array_equal(whole[0], neighbours) and np.array_equal(whole[1], scores)
    few, _ = item_neighbours(interactions([history("u", 1, 2)], 4), m=5)
    assert few.tolist() == [[1, -1, -1, -1, -1], [0, -1, -1, -1, -1], [-1] * 5, [-1] * 5]


def test_empty_places_get_the_nearest_vectors_behind_what_co_occurs() -> None:
    angles = np.array([0.0, 0.1, 0.3, 2.0], np.float32)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    neighbours = np.array([[3, -1], [-1, -1], [-1, -1], [0, 1]], np.int32)
    scores = np.array([[0.4, 0], [0, 0], [0, 0], [0.4, 0.2]], np.float32)
    near, similar = filled_up(neighbours, scores, vectors)
    assert near.tolist() == [[3, 1], [0, 2], [1, 0], [0, 1]]
    np.testing.assert_allclose(similar[0], [0.4, 0.2 * np.cos(0.1)], rtol=1e-5)
    np.testing.assert_allclose(similar[1], [0.1 * np.cos(0.1), 0.1 * np.cos(0.2)], rtol=1e-5)
    assert (neighbours[1] == -1).all()
    few, _ = filled_up(np.full((2, 4), -1, np.int32), np.zeros((2, 4), np.float32), vectors[:2])
    assert few.tolist() == [[1, -1, -1, -1], [0, -1, -1, -1]]
    none, _ = filled_up(np.empty((0, 4), np.int32), np.empty((0, 4), np.float32), vectors[:0])
    assert none.shape == (0, 4)


def test_popularity_decays_by_half_a_half_life() -> None:
    day = 86_400_000
    old = History("u", np.array([1, 2]), np.array([2, 2]), np.array([day, 15 * day]))
    assert popularity([old], 3).tolist() == [1, 1, 0]
    assert popularity([old], 3, half_life_days=14).tolist() == [0.5, 1, 0]
    timeless = old._replace(times=np.zeros(2, np.int64))
    assert popularity([timeless], 3, half_life_days=14).tolist() == [1, 1, 0]


def test_recent_popularity_beats_what_was_popular_long_ago() -> None:
    old = [history(f"o{u}", 1) for u in range(5)]
    new = [history(f"n{u}", 2, start_ms=100 * 86_400_000) for u in range(2)]
    train = TrainingHistories([*old, *new], 3)
    assert baselines.popularity(train)(old[:1], [0]).tolist() == [[5, 2, 0]]
    assert baselines.recent_popularity(1.0)(train)(old[:1], [0]).argmax() == 1


def test_ease_solves_its_least_squares_problem() -> None:
    """Each column of B minimises |x_j - X b|² + λ |b|² with b_j = 0."""
    seen = interactions(HISTORIES, 12)
    x = seen.toarray().astype(float)
    scores = baselines.ease(3.0)(TrainingHistories(HISTORIES, 12))(HISTORIES, [0] * len(HISTORIES))
    for item in (0, 7):
        others = [i for i in range(12) if i != item]
        gram = x[:, others].T @ x[:, others] + 3.0 * np.eye(11)
        weights = np.linalg.solve(gram, x[:, others].T @ x[:, item])
        np.testing.assert_allclose(scores[:, item], x[:, others] @ weights, atol=1e-4)


@pytest.mark.parametrize("fit", [baselines.item_knn(5, 1.0), baselines.ease(1.0), baselines.als(8, 5.0)])
def test_baselines_find_what_always_goes_together(fit: baselines.Fit) -> None:
    pairs = [history(f"u{u}", 2 * (u % 6) + 1, 2 * (u % 6) + 2) for u in range(60)]
    scorer = fit(TrainingHistories(pairs, 12))
    cases = Cases([history("new", 5), history("new", 12)], np.array([5, 10]), [0, 0])
    assert next_item_ranks(scorer, cases).tolist() == [0, 0]


def test_slices() -> None:
    cases = Cases([history("known", *range(1, 12)), history("new", 1)], np.array([11, 0]), [0, 0])
    slices = slice_cases(cases, np.array([9.0] + [5.0] * 10 + [0.0]), {"known"})
    assert {name: mask.tolist() for name, mask in slices.items()} == {
        "new_users": [False, True],
        "new_items": [True, False],
        "tail_items": [True, False],
        "long_histories": [False, False],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = [
        f"{user}:{' '.join(str(10 + n) for n in rng.permutation(40)[: 5 + user % 9])}"
        for user in range(1, 60)
    ]
    (tmp_path / "sequences_stable.txt").write_text("\n".join(lines) + "\n")
    movies = [f"{10 + n}::Film {n} (19{50 + n})::Drama|War" for n in range(40)]
    (tmp_path / "movies.dat").write_text("\n".join(movies), encoding="latin-1")
    return tmp_path


def test_the_whole_evaluation(folder: Path) -> None:
    histories, items = read_ordered_sequences(folder)
    assert len(histories) == 59
    assert items[0].title.startswith("Film")
    assert items[0].attributes["year"].startswith("19")
    config = RecallEvaluation(
        data=folder, protocol=Protocol.ML_1M, work=folder / "work", quick=True, threads=1
    )
    result = main(config)
    for model in ("popularity", "item_knn", "ease", "als", "two_tower"):
        assert 0 <= result.figures[f"{model}_hr10"] <= result.figures[f"{model}_hr50"] == 1.0  # 40 items
        assert 0 < result.figures[f"{model}_coverage10"] <= 1
    assert result.figures["cases"] == 59
    assert not result.met  # random sequences cannot be learnt, and the goals say so
    assert not list((folder / "work").rglob("*.safetensors")), "the next run would not train"


def test_a_killed_evaluation_continues_from_its_checkpoints(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    config = RecallEvaluation(
        data=folder, protocol=Protocol.ML_1M, work=folder / "work", quick=True, threads=1
    )
    with monkeypatch.context() as patch:
        patch.setattr("training.evaluation.recall.measure", killed)
        with pytest.raises(KeyboardInterrupt):
            main(config)
    (checkpoint,) = (folder / "work").rglob("*.safetensors")
    kept = checkpoint.stat().st_mtime_ns

    def trained(asked: TwoTowerConfig, progress: OnProgress) -> TwoTowerResult:
        result = train_two_tower.main(asked, progress)
        assert checkpoint.stat().st_mtime_ns == kept, "trained again"
        return result

    monkeypatch.setattr("training.evaluation.recall.train_two_tower", SimpleNamespace(main=trained))
    main(config)
    assert not checkpoint.exists()


def test_an_augmented_run_does_not_continue_from_a_plain_ones_checkpoint(folder: Path) -> None:
    plain = RecallEvaluation(data=folder, protocol=Protocol.ML_1M, work=folder / "work")
    masked = plain.model_copy(update={"training": {"augmentation": "mask"}})
    split = leave_one_out(*read_ordered_sequences(folder))
    configs = [training_config(each, split) for each in (plain, masked)]
    assert configs[0].work != configs[1].work
    assert configs[1].augmentation is Augmentation.MASK
    with pytest.raises(InvalidConfig, match="augmentation"):
        training_config(plain.model_copy(update={"training": {"augmentation": "spin"}}), split)


def test_a_folder_without_sequences_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"sequences_stable\.txt"):
        read_ordered_sequences(tmp_path)
