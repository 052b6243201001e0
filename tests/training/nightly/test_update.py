"""A night continues from yesterday's weights, by name and not by number, and refuses what does not fit."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import Head, Item
from recsys.items.item_table import items_table, read_items
from recsys.lake.lake import write_parquet
from recsys.models.ranker import RankerConfig
from recsys.models.two_tower import TwoTowerShape
from recsys.ranking.compiled import KERNEL
from recsys.ranking.scorer import RankerSession
from recsys.recall.item_vectors import ItemVectors
from tests.training.evaluation.kuairand_slice import write_slice
from tests.training.ranker.rank_fixture import DAY_MS, N_FEATURES, write_world
from tests.training.two_tower.test_train import ITEMS, planted
from training.compression.variants import Variant
from training.nightly import evaluate as evaluate_nightly
from training.nightly import ranker as nightly_ranker
from training.nightly.evaluate import NightlyEvaluation
from training.nightly.ranker import RankerUpdate, carried_over
from training.nightly.update import nights_since_full, update_ranker, update_two_tower
from training.ranker import train as train_ranker
from training.ranker.artifacts import SUMMARY, VARIANT, trained_ranker
from training.ranker.dataset import item_fields, read_examples, temporal_split
from training.ranker.loop import LoopConfig, predict
from training.ranker.train import RankerTraining, write_ranker
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.cooccurrence import interactions
from training.two_tower.linear import fit_linear
from training.two_tower.sequences import History, SequenceFiles, write_sequences
from training.two_tower.warm_start import trained_config
from training.warm_start import WARM_START, read_warm_start

pytestmark = pytest.mark.slow  # each exports networks
SMALL = RankerConfig(width=8, expert_layers=(16, 8), tower_layers=(), shared_experts=2, cross_rank=4)
NEWEST = "dt=1970-01-14"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days trained in full; the fourth is new."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    (folder / "old").mkdir()
    for day in folder.glob("examples/dt=*"):
        if day.name != NEWEST:
            shutil.copytree(day, folder / "old" / day.name)
    train_ranker.main(
        RankerTraining(
            n_features=N_FEATURES,
            examples=folder / "old",
            items=folder / "items" / "items.parquet",
            out=folder / "ranker",
            checkpoints=folder / "checkpoints",
            history_length=6,
            model=SMALL,
            loop=LoopConfig(epochs=3, batch_size=256, learning_rate=3e-3),  # leaves something to learn
        )
    )
    return folder


def night(world: Path, tmp_path: Path) -> RankerUpdate:
    """Of a copy of yesterday's work folder, so that tests do not see each other."""
    shutil.copytree(world / "ranker", tmp_path / "ranker")
    return RankerUpdate(
        n_features=N_FEATURES,
        examples=world / "examples",
        items=world / "items" / "items.parquet",
        work=tmp_path / "ranker",
        out=tmp_path / "ranker.new",
        history_length=6,
        loop=LoopConfig(epochs=1, batch_size=128, learning_rate=1e-2),
    )


def test_a_night_learns_what_is_new_and_replaces_the_work_folder(world: Path, tmp_path: Path) -> None:
    config = night(world, tmp_path)
    before = read_warm_start(config.work)
    report = update_ranker(config)
    assert report.learnt
    assert report.score_after > report.score_before > 0.5
    after = read_warm_start(config.work)
    assert after.nights == before.nights + 1 == 1
    assert before.trained_until_ms < 13 * DAY_MS < after.trained_until_ms
    rows = read_examples(world / "examples", before.item_ids, N_FEATURES, 6)
    assert report.examples == (rows.time_ms > before.trained_until_ms).sum() < len(rows) / 2
    assert not config.out.exists()
    assert {p.name for p in config.work.iterdir()} == {p.name for p in (world / "ranker").iterdir()}
    # the last tenth, which was validated on, is what is left to learn
    assert 0 < update_ranker(config).examples < report.examples / 2


@pytest.mark.parametrize(("gate", "name"), [(0.5, "int8"), (1.1, "rows-int8")])
def test_an_int8_variant_stays_one_as_long_as_its_lists_agree(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: float, name: str
) -> None:
    monkeypatch.setattr(nightly_ranker, "OVERLAP", gate)
    config = night(world, tmp_path)
    (config.work / VARIANT).write_text(json.dumps(asdict(Variant("int8", 1, {}, 1.0, ()))))
    update_ranker(config)
    found = json.loads((config.work / VARIANT).read_text())
    assert found["name"] == name
    assert found["bytes"] == (config.work / "ranker.onnx").stat().st_size
    assert 0.5 < found["overlap"] <= 1.0
    assert {p.name for p in config.work.iterdir()} == {p.name for p in (world / "ranker").iterdir()} | {
        VARIANT
    }
    model = (config.work / "ranker.onnx").read_bytes()
    assert (b"DynamicQuantizeLinear" in model) == (name == "int8")
    golden = load_file(config.work / "golden.safetensors")
    inputs = {n.removeprefix("ranker/in/"): a for n, a in golden.items() if n.startswith("ranker/in/")}
    for head, scores in RankerSession(config.work / "ranker.onnx").run(inputs).items():
        np.testing.assert_allclose(scores, golden[f"ranker/out/{head}"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["compiled", "rows-int8"])
def test_a_compiled_variant_stays_one_where_there_is_compiled_code(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The ranker of this test has too few items for rows in 8 bits, so its weights are stand-ins."""
    config = night(world, tmp_path)
    (config.work / VARIANT).write_text(json.dumps(asdict(Variant("compiled", 1, {}, 1.0, ()))))
    monkeypatch.setattr(nightly_ranker, "core", object() if name == "compiled" else None)
    monkeypatch.setattr(nightly_ranker, "write_kernel", lambda _, out: (out / KERNEL).write_bytes(b"weights"))
    update_ranker(config)
    found = json.loads((config.work / VARIANT).read_text())
    written = config.work / (KERNEL if name == "compiled" else "ranker.onnx")
    assert (found["name"], found["bytes"]) == (name, written.stat().st_size)
    assert (config.work / KERNEL).exists() == (name == "compiled")


def test_a_ranker_leaves_nothing_of_the_variant_that_was_there(world: Path, tmp_path: Path) -> None:
    folder = night(world, tmp_path).work
    for name in (KERNEL, VARIANT):
        (folder / name).write_text("of another ranker")
    ids = read_warm_start(folder).item_ids
    train, validation = temporal_split(read_examples(world / "examples", ids, N_FEATURES, 6), 0.1)
    write_ranker(trained_ranker(folder), train, validation, folder, seed=0)
    usual = {p.name for p in (world / "ranker").iterdir()}
    assert {p.name for p in folder.iterdir()} == usual - {SUMMARY}, "which the training writes at last"


def test_weights_follow_the_items_ids(world: Path) -> None:
    """An item that sorts before all others moves every number by one; scores stay, and the new one is as unknown."""
    previous, items = read_warm_start(world / "ranker"), read_items(world / "items" / "items.parquet")
    more = [
        Item("a-first", categories=("c1",)),
        *items,
        Item("z1", categories=("new",)),
        Item("z2", categories=("new",)),
    ]
    facts, more_facts = (item_fields(table, known=previous.fields) for table in (items, more))
    assert more_facts.sizes == (facts.sizes[0] + 1,)
    rows, more_rows = (
        read_examples(world / "examples", [i.item_id for i in table], N_FEATURES, 6)
        for table in (items, more)
    )
    assert (more_rows.items == rows.items + 1).all()
    same = carried_over(world / "ranker", previous, items, facts)
    moved = carried_over(world / "ranker", previous, more, more_facts)
    for head in Head:
        np.testing.assert_array_equal(predict(same, rows)[head], predict(moved, more_rows)[head])
    weight = moved.state_dict()["item.weight"]
    assert torch.equal(weight[1], weight[0])
    field = moved.state_dict()["field.0.weight"]
    assert torch.equal(field[-1], field[0])  # of "new"


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"history_length": 7}, "history length"), ({"item_attributes": ("brand",)}, "item attributes")],
)
def test_a_different_input_is_refused(
    world: Path, tmp_path: Path, changes: dict[str, object], what: str
) -> None:
    config = night(world, tmp_path)
    with pytest.raises(InvalidConfig, match=f"different {what}.*recsys train all"):
        nightly_ranker.main(config.replace(**changes))


def test_a_different_feature_fingerprint_is_refused(world: Path, tmp_path: Path) -> None:
    config = night(world, tmp_path)
    content = json.loads((config.work / WARM_START).read_text())
    content["must_agree"]["feature fingerprint"] = "another"
    (config.work / WARM_START).write_text(json.dumps(content))
    with pytest.raises(InvalidConfig, match="different feature fingerprint.*recsys train all"):
        update_ranker(config)
    assert (config.work / "ranker.onnx").exists()  # yesterday's is as it was


def test_rows_that_items_share_by_number_do_not_outlive_the_numbers(world: Path, tmp_path: Path) -> None:
    config = night(world, tmp_path)
    shape = asdict(replace(SMALL, item_buckets=8))
    (config.work / "shape.json").write_text(json.dumps(shape))
    previous, items = read_warm_start(config.work), read_items(config.items)
    more = [Item("a-first"), *items]
    with pytest.raises(InvalidConfig, match="share rows by their numbers"):
        carried_over(config.work, previous, more, item_fields(more, known=previous.fields))


def test_without_yesterdays_model_or_new_examples_it_says_what_to_do(world: Path, tmp_path: Path) -> None:
    config = night(world, tmp_path)
    with pytest.raises(InvalidData, match="recsys features build"):
        nightly_ranker.main(config.replace(examples=tmp_path))
    with pytest.raises(InvalidData, match="recsys train all"):
        nightly_ranker.main(config.replace(work=tmp_path / "nowhere"))
    assert nights_since_full(tmp_path / "nowhere") == float("inf")
    assert nights_since_full(config.work) == 0


@pytest.fixture
def towers(tmp_path: Path) -> TwoTowerConfig:
    """Trained and exported to `two_tower`; then users continue, and there is one more item, first in the order."""
    histories = planted(200, 0)
    write_sequences(
        tmp_path / "sequences" / "a.parquet", [h.before(len(h.numbers) - 1) for h in histories], ITEMS
    )
    write_parquet(tmp_path / "items.parquet", items_table(ITEMS))
    config = TwoTowerConfig(
        sequences=tmp_path / "sequences",
        items=tmp_path / "items.parquet",
        work=tmp_path / "checkpoints",
        shape=TwoTowerShape(dim=32, blocks=1, heads=2, hidden=32, attribute_buckets=64, dropout=0.1),
        epochs=6,
        batch_tokens=128,
        learning_rate=1e-2,
        warmup_steps=5,
        validation=Validation.NONE,
        threads=1,
    )
    export_two_tower.main(train_two_tower.main(config), tmp_path / "two_tower", neighbours=5)
    later = [History(h.user_id, h.numbers + 1, h.types, h.times) for h in histories]
    more = [Item("a-first", categories=("c1",)), *ITEMS]
    write_sequences(tmp_path / "sequences" / "a.parquet", later, more)
    write_parquet(tmp_path / "items.parquet", items_table(more))
    return config


def test_a_night_of_the_two_tower_continues_where_it_was(towers: TwoTowerConfig, tmp_path: Path) -> None:
    work = tmp_path / "two_tower"
    before = read_warm_start(work)
    start = towers.model_copy(
        update={
            "start": work,
            "newer_than_ms": before.trained_until_ms,
            "epochs": 1,
            "work": tmp_path / "again",
        }
    )
    result = train_two_tower.main(start)
    cold = train_two_tower.main(start.model_copy(update={"start": None, "work": tmp_path / "cold"}))
    assert result.epochs[-1].loss < cold.epochs[-1].loss / 2
    update_two_tower(towers, work)
    after = read_warm_start(work)
    assert after.nights == 1
    assert after.item_ids[0] == "a-first"
    assert after.trained_until_ms > before.trained_until_ms
    with pytest.raises(InvalidData, match="nothing is newer"):
        update_two_tower(towers, work)


def test_a_night_has_the_linear_part_of_its_log_and_the_weight_of_before(
    towers: TwoTowerConfig, tmp_path: Path
) -> None:
    work, config = tmp_path / "two_tower", towers.replace(linear_rank=4)
    summary = json.loads((work / "summary.json").read_text())
    summary["config"] |= {"linear_rank": 4, "linear_weight": 7.0, "linear_regularisation": 30.0}
    (work / "summary.json").write_text(json.dumps(summary))
    update_two_tower(config, work)
    items = ItemVectors.of(load_file(work / "item_vectors.safetensors"))
    assert items.linear is not None
    assert trained_config(work).linear_weight == 7.0
    assert trained_config(work).linear_regularisation == 30.0
    log = list(SequenceFiles(config.sequences, read_items(config.items)).read())
    fitted = fit_linear(interactions(log, len(items)), 4, 30.0, config.seed)
    np.testing.assert_allclose(items.linear.history, fitted.weighed(7.0).history, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"linear_weight": 5.0}, (5.0, 30.0)),
        ({"linear_regularisation": 90.0}, (7.0, 90.0)),
    ],
    ids=str,
)
def test_a_night_takes_what_is_set_and_else_what_was_chosen(
    towers: TwoTowerConfig, tmp_path: Path, own: dict[str, float], expected: tuple[float, float]
) -> None:
    work = tmp_path / "two_tower"
    summary = json.loads((work / "summary.json").read_text())
    summary["config"] |= {"linear_rank": 4, "linear_weight": 7.0, "linear_regularisation": 30.0}
    (work / "summary.json").write_text(json.dumps(summary))
    update_two_tower(towers.replace(linear_rank=4, **own), work)
    found = trained_config(work)
    assert (found.linear_weight, found.linear_regularisation) == expected


def test_a_two_tower_of_another_shape_is_refused(towers: TwoTowerConfig, tmp_path: Path) -> None:
    wider = towers.model_copy(update={"shape": towers.shape.model_copy(update={"dim": 64})})
    with pytest.raises(InvalidConfig, match="different two-tower's dim.*recsys train all"):
        update_two_tower(wider, tmp_path / "two_tower")
    vectors = pq.read_table(towers.items)
    assert len(vectors) == len(ITEMS) + 1


def test_a_night_can_be_trained_as_the_last_training_was(towers: TwoTowerConfig, tmp_path: Path) -> None:
    work = tmp_path / "two_tower"
    assert trained_config(work) == towers
    update_two_tower(trained_config(work).replace(work=tmp_path / "again"), work)
    assert trained_config(work).shape == towers.shape
    assert read_warm_start(work).nights == 1
    (work / "summary.json").write_text('{"config": {"epoch": 3}}')
    with pytest.raises(InvalidData, match="recsys train all"):
        trained_config(work)


def test_nights_are_compared_with_full_trainings(tmp_path: Path) -> None:
    write_slice(tmp_path)
    result = evaluate_nightly.main(NightlyEvaluation(data=tmp_path, is_quick=True))
    assert result.figures["nights"] == 1
    for kind in evaluate_nightly.KINDS:
        assert 0.4 < result.figures[f"{kind}_click_auc"] < 1
    assert result.figures["unchanged_cpu_s"] == 0 < result.figures["updated_cpu_s"]
