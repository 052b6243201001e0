"""The whole training: learns a planted pattern, resumes bit for bit after kill -9, exports what serving reads."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.ml.torch.distributor import TorchDistributor
from safetensors.numpy import load_file

from recsys.bundle import FILES
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.request import Query
from recsys.contracts.types import MS_PER_HOUR, EventType, Item, User
from recsys.datasets.base import USER_SCHEMA
from recsys.items.item_table import items_table
from recsys.lake.lake import write_parquet
from recsys.models.two_tower import TwoTowerShape
from recsys.native import core
from recsys.recall.ann import AnnIndex
from recsys.recall.two_tower import TwoTowerSource, UserTower
from recsys.spark_session import spark_session
from training.checkpoint import TrainingState
from training.choices import Augmentation
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.losses import LossName
from training.two_tower.result import TwoTowerResult
from training.two_tower.sequences import History, write_sequences
from training.two_tower.train import main
from training.warm_start import WARM_START, WEIGHTS

N_ITEMS = 30
ITEMS = [Item(f"i{n:02}", categories=(f"c{n % 3}",)) for n in range(N_ITEMS)]
HERE = Path(__file__).parent


def step_of(number: int) -> int:
    """The planted pattern: item n is followed by item n + 7."""
    return (number + 6) % N_ITEMS + 1


def planted(users: int, seed: int) -> list[History]:
    rng = np.random.default_rng(seed)
    histories = []
    for user in range(users):
        numbers = [int(rng.integers(1, N_ITEMS + 1))]
        while len(numbers) < 3 + user % 6:
            numbers.append(step_of(numbers[-1]))
        times = 1_000_000 + np.cumsum(rng.integers(1_000, 90_000, len(numbers)))
        histories.append(History(f"u{user:03}", np.array(numbers), np.full(len(numbers), 2), times))
    return histories


@pytest.fixture
def config(tmp_path: Path) -> TwoTowerConfig:
    write_sequences(tmp_path / "sequences" / "a.parquet", planted(200, 0), ITEMS, row_group=64)
    write_parquet(tmp_path / "items.parquet", items_table(ITEMS))
    return TwoTowerConfig(
        sequences=tmp_path / "sequences",
        items=tmp_path / "items.parquet",
        work=tmp_path / "work",
        shape=TwoTowerShape(dim=32, blocks=1, heads=2, hidden=32, attribute_buckets=64, dropout=0.1),
        epochs=6,
        batch_tokens=128,
        learning_rate=1e-2,
        warmup_steps=5,
        validation=Validation.LAST_ITEM,
        threads=1,
    )


def weights(result: TwoTowerResult) -> dict[str, torch.Tensor]:
    return result.model.state_dict()


def same_weights(one: TwoTowerResult, other: TwoTowerResult) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


@pytest.mark.parametrize("loss", [LossName.FULL, LossName.MIXED])
def test_learns_the_planted_pattern(config: TwoTowerConfig, loss: LossName) -> None:
    result = main(config.model_copy(update={"loss": loss, "negatives": 16, "ema": 0.9}))
    assert result.validation["ndcg@10"] > 0.9  # at random: 0.15
    assert result.epochs[-1].loss < result.epochs[0].loss
    assert not result.model.training


def test_a_log_of_returns_is_learnt_as_one(config: TwoTowerConfig, tmp_path: Path) -> None:
    """Each user goes round between four items, some hours apart: what comes next is never new."""
    rng = np.random.default_rng(0)
    rounds = [np.tile(rng.choice(N_ITEMS, 4, replace=False) + 1, 6) for _ in range(120)]
    times = 1_000_000 + 3 * MS_PER_HOUR * np.arange(24)
    histories = [History(f"u{u}", items, np.full(24, 2), times) for u, items in enumerate(rounds)]
    write_sequences(config.sequences / "a.parquet", histories, ITEMS, row_group=64)
    result = main(config)
    assert result.repeats.days == {EventType.CLICK: 0.0}
    assert result.validation["hr@10"] > 0.9
    summary = json.loads((export_two_tower.main(result, tmp_path / "out") / "summary.json").read_text())
    assert summary["repeats"] == {"click": 0.0}
    newest = {"validation": Validation.TIME, "epochs": 1}
    never = main(config.replace(repeats={}, work=tmp_path / "never", **newest))
    assert never.repeats.days == {}
    assert "hr@10" in never.validation, "nothing new to hold out: all of it was trained on"
    assert math.isnan(never.validation["hr@10"])


def test_the_same_seed_gives_the_same_weights(config: TwoTowerConfig, tmp_path: Path) -> None:
    short = config.model_copy(update={"epochs": 2, "validation": Validation.NONE})
    one = main(short)
    again = main(short.model_copy(update={"work": tmp_path / "again"}))
    other = main(short.model_copy(update={"work": tmp_path / "other", "seed": 1}))
    assert same_weights(one, again)
    assert not same_weights(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"], ids=["before rename", "after rename"])
def test_resumes_bit_for_bit_after_kill_9(config: TwoTowerConfig, tmp_path: Path, moment: str) -> None:
    """A process is killed in the middle of an epoch, while (or just after) it writes its 20th checkpoint."""
    run = config.model_copy(update={"checkpoint_s": 0.0, "ema": 0.9, "epochs": 3})
    whole = main(run.model_copy(update={"work": tmp_path / "whole"}))
    (tmp_path / "config.json").write_text(run.model_dump_json())
    killed = subprocess.run(
        [sys.executable, HERE / "two_tower_killed.py", tmp_path / "config.json", "20", moment],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    resumed = main(run)
    assert same_weights(whole, resumed)
    assert [e.loss for e in whole.epochs] == [e.loss for e in resumed.epochs]


def test_a_checkpoint_of_another_configuration_is_refused(config: TwoTowerConfig) -> None:
    main(config.model_copy(update={"epochs": 1, "validation": Validation.NONE}))
    with pytest.raises(InvalidConfig, match="another configuration"):
        main(config.model_copy(update={"epochs": 1, "validation": Validation.NONE, "learning_rate": 1e-3}))
    (config.work / "refit.safetensors").write_bytes(b"torn")
    with pytest.raises(InvalidData, match="not a checkpoint"):
        main(config.model_copy(update={"epochs": 1, "validation": Validation.NONE}))


def torchrun(config_file: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*command, "-m", "training.two_tower.train", config_file],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )


def torch_distributor(config_file: Path) -> None:
    session = spark_session("local[2]", memory="1g")
    try:
        distributor = TorchDistributor(num_processes=2, local_mode=True, use_gpu=False)
        distributor.run(train_two_tower.__file__, str(config_file))
    finally:
        session.stop()


SHARDED = {"loss": LossName.MIXED, "negatives": 16, "shard_items": True, "ema": 0.9}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "changes"),
    [
        pytest.param(torchrun, {**SHARDED, "linear_rank": 8}, id="torchrun, sharded table, linear part"),
        pytest.param(
            torch_distributor, {}, marks=[pytest.mark.spark, pytest.mark.slow], id="TorchDistributor"
        ),
    ],
)
def test_two_processes_have_the_losses_of_one(
    config: TwoTowerConfig, tmp_path: Path, launch: Callable[[Path], None], changes: dict[str, object]
) -> None:
    """With a sharded table the validation runs too, and checkpoints are written in the middle of an epoch."""
    common = {"shape": config.shape.model_copy(update={"dropout": 0.0, "id_dropout": 0.0}), "epochs": 2}
    alone = {"validation": Validation.LAST_ITEM if changes else Validation.NONE, "checkpoint_s": 0.0}
    run = config.model_copy(update={**common, **alone, **changes})
    one = main(run.model_copy(update={"work": tmp_path / "one"}))
    (tmp_path / "config.json").write_text(run.model_dump_json())
    launch(tmp_path / "config.json")
    two = main(run)  # finished: read from the checkpoint
    assert [e.loss for e in two.epochs] == pytest.approx([e.loss for e in one.epochs], rel=1e-4)
    assert two.validation == pytest.approx(one.validation, rel=0.02)
    assert two.config.linear_weight == one.config.linear_weight
    for a, b in zip(weights(one).values(), weights(two).values(), strict=True):
        assert torch.allclose(a, b, atol=2e-3)


@pytest.mark.slow
def test_a_sharded_table_learns_and_resumes_from_any_step(config: TwoTowerConfig, tmp_path: Path) -> None:
    run = config.model_copy(update={**SHARDED, "validation": Validation.LAST_ITEM})
    whole = main(run.model_copy(update={"work": tmp_path / "whole"}))
    assert whole.validation["ndcg@10"] > 0.9
    assert whole.epochs[0].loader_targets_per_s > 0
    half = run.model_copy(update={"checkpoint_s": 0.0, "refit": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "save", _save_and_stop(TrainingState.save, 20))
        with pytest.raises(KeyboardInterrupt):
            main(half)
    assert (
        main(half).epochs[-1].validation
        == main(half.model_copy(update={"work": tmp_path / "again"})).epochs[-1].validation
    )


def _save_and_stop(save: Callable[..., None], at: int) -> Callable[..., None]:
    left = iter(range(at))

    def saved(*arguments: object, **options: object) -> None:
        save(*arguments, **options)
        if next(left, None) is None:
            raise KeyboardInterrupt

    return saved


def test_a_sharded_table_needs_a_sampled_loss(config: TwoTowerConfig) -> None:
    with pytest.raises(InvalidConfig, match="choose a sampled loss"):
        main(config.model_copy(update={"shard_items": True}))


@pytest.mark.parametrize(
    "changes", [{"wanted": EventType.PURCHASE}, {"half_life_days": 3.0}, {"newer_than_ms": 1}], ids=str
)
def test_shuffled_histories_have_no_times_to_go_by(
    config: TwoTowerConfig, changes: dict[str, object]
) -> None:
    with pytest.raises(InvalidConfig, match="choose another augmentation"):
        main(config.replace(augmentation=Augmentation.SHUFFLE, **changes))


@pytest.mark.slow
def test_a_new_user_is_known_by_static_attributes(config: TwoTowerConfig, tmp_path: Path) -> None:
    """Planted: "F" begin with the first ten items, "M" with the last ten."""
    rng, histories, users = np.random.default_rng(0), [], []
    for n in range(200):
        gender = "FM"[n % 2]
        numbers = rng.permutation(10)[:4] + 1 + (20 if gender == "M" else 0)
        histories.append(History(f"u{n}", numbers, np.full(4, 2), np.arange(1, 5) * 1_000))
        users.append(User(f"u{n}", {"gender": gender, "shoe size": str(n)}))  # serving keeps no shoe size
    write_sequences(config.sequences / "a.parquet", histories, ITEMS)
    rows = [{"user_id": u.user_id, "attributes": list(u.attributes.items())} for u in users]
    pq.write_table(pa.Table.from_pylist(rows, USER_SCHEMA), tmp_path / "users.parquet")
    run = config.model_copy(
        update={
            "users": tmp_path / "users.parquet",
            "shape": config.shape.model_copy(update={"profile": True}),
            "validation": Validation.NONE,
        }
    )
    with pytest.raises(InvalidConfig, match="set `users`"):
        main(run.model_copy(update={"users": None}))
    work = export_two_tower.main(main(run), tmp_path / "bundle", neighbours=4)
    vectors = load_file(work / "item_vectors.safetensors")["vectors"]
    tower, index = UserTower(work / "user_tower.onnx", vectors), AnnIndex.build(vectors)
    source = TwoTowerSource(tower, index, limit=5)
    nobody = np.zeros(4, np.int64)
    for attributes, group in (({"gender": "F"}, 0), ({"gender": "M"}, 2)):
        query = Query("r", "new", 5, 0, attributes=attributes, history=nobody, types=nobody, gaps=nobody)
        assert {int(row) // 10 for row in source.recall(query)} == {group}
    assert len(source.recall(Query("r", "new", 5, 0, history=nobody, types=nobody, gaps=nobody))) == 0
    check = {n.removeprefix("user_tower/in/"): a for n, a in load_file(work / "golden.safetensors").items()}
    assert check["profile"].any(axis=1).all()


@pytest.mark.slow
def test_export_is_what_the_bundle_wants(config: TwoTowerConfig, tmp_path: Path) -> None:
    result = main(config.model_copy(update={"epochs": 10, "validation": Validation.NONE}))
    work = export_two_tower.main(result, tmp_path / "bundle", neighbours=4)
    written = {path.name for path in work.iterdir()}
    of_training = {"summary.json", WARM_START, WEIGHTS}
    assert written - FILES.keys() == of_training, "what the next night starts from stays out of the bundle"
    assert json.loads((work / "summary.json").read_text())["seed"] == 0
    golden, vectors = load_file(work / "golden.safetensors"), load_file(work / "item_vectors.safetensors")
    assert (work / "user_tower.onnx").stat().st_size < 1 << 20, "the catalogue is not in it"
    inputs = {name: golden[f"user_tower/in/{name}"] for name in ("history", "types", "gaps")}
    users = UserTower(work / "user_tower.onnx", vectors["vectors"]).vectors(**inputs)
    np.testing.assert_allclose(users, golden["user_tower/out/user_vector"], atol=1e-5)
    compiled = UserTower(work / "user_tower.onnx", vectors["vectors"], native=True)
    assert compiled.runtime == ("onnxruntime" if core is None else "compiled")
    np.testing.assert_allclose(compiled.vectors(**inputs), users, rtol=1e-4, atol=1e-4)
    assert vectors["vectors"].shape == (N_ITEMS, 32)
    newest = inputs["history"][1:, -1]  # case 0 is the empty history
    expected = [step_of(int(number)) - 1 for number in newest]
    found = (users[1:] @ vectors["vectors"].T).argmax(1)
    assert (found == expected).mean() > 0.8

    similar = load_file(work / "item_to_item.safetensors")
    assert similar["neighbours"].shape == similar["scores"].shape == (N_ITEMS, 4)
    assert similar["neighbours"].dtype == np.int32
    popular = load_file(work / "popular.safetensors")
    assert sorted(popular["rows"].tolist()) == list(range(N_ITEMS))
    assert (np.diff(popular["scores"]) <= 0).all()
