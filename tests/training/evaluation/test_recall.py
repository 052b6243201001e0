"""The evaluation command's whole run on tiny data, what it measures, and what it leaves out."""

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig
from tests.training.evaluation.histories import history
from training.choices import Augmentation, Order, Protocol
from training.evaluation.measure import Measured, lead, mean, measure, slice_cases
from training.evaluation.recall import (
    RecallEvaluation,
    goals,
    in_own_folder,
    main,
    read_split,
    training_config,
)
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.result import TwoTowerResult
from training.two_tower.retrieval import Cases
from training.two_tower.sequences import History
from training.two_tower.train import OnProgress


def by_number(histories: Sequence[History], now_ms: Sequence[int]) -> NDArray[np.float32]:
    """The lower an item's number, the higher its score."""
    return np.tile(-np.arange(12, dtype=np.float32), (len(histories), 1))


def test_figures_of_several_items_without_the_seen_ones() -> None:
    """The first user has item rows 0 and 1, so that rows 2, 4 and 11 are at ranks 0, 2 and 9."""
    cases = Cases([history("u", 1, 2), history("v")], [np.array([4, 11, 2]), np.array([5])], [0, 0])
    found = measure(by_number, cases, np.ones(12))
    assert found.per_case["recall5"].tolist() == [2 / 3, 0]
    assert found.per_case["hr5"].tolist() == [1, 0]
    assert found.per_case["mrr"].tolist() == [1, 1 / 6]
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert found.per_case["ndcg10"].tolist() == pytest.approx(
        [(1 + 1 / np.log2(4) + 1 / np.log2(11)) / ideal, 1 / np.log2(7)]
    )
    assert found.lists["coverage10"] == 1
    figures = found.figures({"new_users": np.array([False, True]), "none": np.zeros(2, np.bool_)})
    assert (figures["hr5"], figures["hr10_new_users"], figures["mrr5"]) == (0.5, 1, 0.5)
    assert not [name for name in figures if name.endswith("_none")]
    assert {
        f"{m}{k}" for m in ("hr", "recall", "ndcg", "mrr") for k in (5, 10, 20, 50, 200)
    } <= figures.keys()


def test_a_catalogue_smaller_than_a_list() -> None:
    def three(histories: Sequence[History], now_ms: Sequence[int]) -> NDArray[np.float32]:
        return np.tile(np.array([3, 2, 1], np.float32), (len(histories), 1))

    found = measure(three, Cases([history("u", 1)], [np.array([2])], [0]), np.ones(3))
    assert found.per_case["mrr"].tolist() == [0.5]
    assert found.lists["coverage10"] == pytest.approx(2 / 3)  # the seen item is in no list


def of(*hits: float) -> Measured:
    return Measured({"hr10": np.array(hits)}, {"coverage10": 0.5})


def test_the_lead_is_judged_by_user_over_the_mean_of_the_seeds() -> None:
    ours = mean([of(1, 1, 0), of(1, 0, 0)])
    assert ours.per_case["hr10"].tolist() == [1, 0.5, 0]
    found = lead(ours, of(0, 0, 0), ["hr10", "coverage10"], ["a", "b", "b"])
    assert found["hr10"] == 0.5
    assert found["hr10_low"] == pytest.approx(0.25)  # b alone
    assert found["hr10_high"] == pytest.approx(1.0)  # a alone
    assert found.keys() == {"hr10", "hr10_low", "hr10_high"}, "coverage is not of a case"


def test_nothing_over_nothing_is_not_measured() -> None:
    figures = {"two_tower_hr10": 0.0, "ease_hr10": 0.0, "two_tower_ndcg10": 0.3, "ease_ndcg10": 0.2}
    figures |= {"two_tower_recall20": 0.1, "ease_recall20": 0.0}
    notes: list[str] = []
    wanted = goals(Protocol.GIVEN, figures, ["ease"], notes)
    assert list(wanted) == ["ndcg10_over_best_baseline"]
    assert figures["ndcg10_over_best_baseline"] == pytest.approx(1.5)
    assert not [name for name in figures if name.startswith(("hr10_over", "recall20_over"))]
    assert [note.split()[0] for note in notes] == ["hr10_over_best_baseline", "recall20_over_best_baseline"]
    assert not goals(Protocol.GIVEN, figures, [], notes), "every baseline was left out"


def test_slices() -> None:
    histories = [history("known", *range(1, 12)), history("new", 1), history("known", 1)]
    cases = Cases(histories, [np.array([11]), np.array([0]), np.array([0, 11])], [0, 0, 0])
    slices = slice_cases(cases, np.array([9.0] + [5.0] * 10 + [0.0]), {"known"})
    assert {name: mask.tolist() for name, mask in slices.items()} == {
        "new_users": [False, True, False],
        "new_items": [True, False, False],
        "tail_items": [True, False, False],
        "long_histories": [False, False, False],
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


def test_an_evaluation_of_a_random_split(tmp_path: Path) -> None:
    """Each user has items of one of three groups of twelve, in any order; four of them are the test."""
    rng, files = np.random.default_rng(0), {"train.txt": "", "test.txt": ""}
    for user in range(90):
        items = [f"i{12 * (user % 3) + n:02}" for n in rng.permutation(12)]
        files["train.txt"] += f"u{user} {' '.join(items[:6])}\n"
        files["test.txt"] += f"u{user} {' '.join(items[6:10])}\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    config = RecallEvaluation(
        protocol=Protocol.GIVEN,
        train=tmp_path / "train.txt",
        test=tmp_path / "test.txt",
        work=tmp_path / "work",
        quick=True,
        threads=1,
        training={"linear_rank": 8, "linear_weight": 100.0, "linear_regularisation": 10.0},
    )
    result = main(config)
    assert result.figures["two_tower_recall10"] > 0.95
    assert any("without a time" in note for note in result.notes)
    kept = config.model_copy(update={"order": Order.KEPT})
    assert kept.folder != config.folder, "they would share sequences and checkpoints"


def test_a_killed_evaluation_continues_from_its_checkpoints(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    config = RecallEvaluation(
        data=folder, protocol=Protocol.ML_1M, work=folder / "work", quick=True, threads=1
    )
    with monkeypatch.context() as patch:
        patch.setattr("training.evaluation.recall.mean", killed)
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
    split = read_split(plain)
    configs = [in_own_folder(training_config(each, split, seed=0), split) for each in (plain, masked)]
    assert configs[0].work != configs[1].work
    assert configs[1].augmentation is Augmentation.MASK
    grown = replace(split, refit=split.refit[1:])
    assert in_own_folder(training_config(plain, grown, seed=0), grown).work != configs[0].work
    with pytest.raises(InvalidConfig, match="augmentation"):
        training_config(plain.model_copy(update={"training": {"augmentation": "spin"}}), split, seed=0)


def orders(folder: Path, name: str, first: int = 0, users: int = 60) -> Path:
    """A file of sequences: each user goes through the items in order, from a random one on, and may skip one."""
    rng = np.random.default_rng(first)
    lines = []
    for user in range(users):
        items = (rng.integers(40) + first + np.cumsum(rng.integers(1, 3, 6))) % 40
        lines.append(f"u{user} " + " ".join(f"i{item}" for item in items))
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def evaluation(folder: Path, **options: object) -> RecallEvaluation:
    return RecallEvaluation.model_validate({"work": folder / "work", "quick": True, "threads": 1, **options})


def test_any_file_of_sequences_with_two_seeds(tmp_path: Path) -> None:
    path = orders(tmp_path, "orders.txt")
    with path.open("a") as lines:
        lines.write("short i1 i1\n")
    result = main(evaluation(tmp_path, data=path, protocol="leave-one-out", seeds=2))
    figures = result.figures
    assert (figures["cases"], figures["left_out_users"], figures["left_out_cases"]) == (60, 1, 0)
    assert "cases: only 60, fewer than 200; differences may be chance" in result.notes
    assert figures["two_tower_hr10_sd"] >= 0
    for metric in ("hr10", "ndcg10", "recall20"):
        assert 0 < figures[f"{metric}_over_best_baseline"] < math.inf
        low, high = (figures[f"two_tower_over_ease_{metric}_{end}"] for end in ("low", "high"))
        assert low <= figures[f"two_tower_over_ease_{metric}"] <= high
    assert figures["two_tower_recall20"] == figures["two_tower_hr20"]  # one item per case


def test_what_is_trained_can_be_changed_and_does_not_continue_from_the_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: list[Path] = []

    def train(config: TwoTowerConfig, progress: object) -> None:
        works.append(config.work)
        raise KeyboardInterrupt(config.epochs)

    monkeypatch.setattr(train_two_tower, "main", train)
    config = evaluation(tmp_path, data=orders(tmp_path, "orders.txt"), protocol="leave-one-out")
    for epochs in (1, 2, 3):  # the protocol's own is 1
        with pytest.raises(KeyboardInterrupt, match=str(epochs)):
            main(config, changed=methodcaller("replace", epochs=epochs))
    assert len({*works}) == 3


def test_given_files_with_no_memory_for_ease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluation.recall._PROCESS_GIB", 1 - 1e-6)
    train, test = orders(tmp_path, "a.txt"), orders(tmp_path, "b.txt", first=1)
    result = main(evaluation(tmp_path, train=train, test=test, protocol="given", memory_gib=1.0))
    figures = result.figures
    assert 0 < figures["two_tower_recall200"] == 1  # 40 items
    assert figures["two_tower_recall5"] <= figures["two_tower_hr5"]
    assert figures["popularity_hr10"] > 0
    assert not [name for name in figures if "ease" in name]
    assert any(note.startswith("ease is left out: 40 items take") for note in result.notes)
    assert figures["left_out_events"] > 0


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"protocol": "given", "train": "orders.txt"}, "--train and --test"),
        ({"protocol": "leave-one-out"}, "add --data"),
        ({"protocol": "temporal", "data": "examples/shop", "train_until": "2026-01-02"}, "two moments"),
        (
            {
                "protocol": "temporal",
                "data": "examples/shop",
                "train_until": "2026-01-02",
                "validate_until": "2026-01-02",
            },
            "a later --validate-until",
        ),
    ],
)
def test_what_a_protocol_lacks_is_said(tmp_path: Path, options: dict[str, str], fault: str) -> None:
    with pytest.raises(InvalidConfig, match=fault):
        read_split(evaluation(tmp_path, **options))


def test_moments_are_utc_unless_they_name_a_zone(tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text(
        "events: {files: [log.csv], user: u, item: i, time: {column: t, unit: iso}, events: [{type: click}]}"
    )
    rows = [f"u{n % 3},i{n},2026-01-{1 + n // 4:02}T{6 * (n % 4):02}:00:00" for n in range(24)]
    (tmp_path / "log.csv").write_text("\n".join(["u,i,t", *rows]))
    options = {"data": tmp_path, "protocol": "temporal", "validate_until": "2026-01-05T12:00"}
    utc = read_split(evaluation(tmp_path, **options, train_until="2026-01-04"))
    east = read_split(evaluation(tmp_path, **options, train_until="2026-01-04T00:00+08:00"))
    assert utc.validation_from_ms - east.validation_from_ms == 8 * 3_600_000
    assert (len(utc.test), len(utc.validation), len(east.validation)) == (6, 6, 7)


def test_few_validation_cases_stop_nothing(tmp_path: Path) -> None:
    few = read_split(evaluation(tmp_path, data=orders(tmp_path, "a"), protocol="leave-one-out"))
    many = read_split(evaluation(tmp_path, data=orders(tmp_path, "b", users=500), protocol="leave-one-out"))
    asked = evaluation(tmp_path, protocol="leave-one-out", quick=False)
    found = [training_config(asked, split, seed=0).validation for split in (few, many)]
    assert found == [Validation.NONE, Validation.LAST_ITEM]
