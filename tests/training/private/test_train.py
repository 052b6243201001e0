"""A private training end to end: the usual work folder, what is left out of it, and the ledger."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from recsys.contracts.errors import BudgetSpent, InvalidConfig, InvalidData
from recsys.features.definitions import FEATURES
from recsys.ranking.scorer import RankerSession
from tests.training.ranker.rank_fixture import N_FEATURES, write_world
from training.privacy.accounting import Spend
from training.privacy.ledger import Ledger
from training.privacy.randomness import Floats, SecureRandomness
from training.private import train
from training.private.ranker import RankerLoop
from training.private.train import PrivateTraining, main, own_columns
from training.private.work_folder import is_private, pay
from training.ranker.artifacts import trained_ranker
from training.ranker.train import write_model


def configured(folder: Path, **changes: object) -> PrivateTraining:
    return PrivateTraining(
        n_features=N_FEATURES,
        examples=folder / "examples",
        items=folder / "items" / "items.parquet",
        out=folder / "ranker",
        item_counts=True,
        loop=RankerLoop(delta=1e-4, epochs=1, users_per_step=64),
    ).replace(**changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private")
    write_world(folder)
    return folder


def test_the_work_folder_is_the_usual_one_without_what_is_not_private(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    class Watched(SecureRandomness):
        def normal(self, n: int) -> Floats:
            drawn.append(n)
            return super().normal(n)

    monkeypatch.setattr(train, "SecureRandomness", Watched)
    out = world / "ranker"
    out.mkdir()
    for stale in ("calibration.json", "taste.json", "warm_start.json", "uncertainty.json"):
        (out / stale).write_text("{}")
    ledger = Ledger(world / "privacy.json", 10.0, 1e-4)
    report = main(configured(world), ledger)

    assert sum(drawn) > 1_000, "noise is of the secure source"
    assert sorted(p.name for p in out.iterdir()) == [
        *("golden.safetensors", "ranker.onnx", "shape.json", "summary.json", "weights.safetensors")
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["privacy"] == report.privacy
    assert summary["privacy"]["unit"] == "user"
    assert 7.5 < summary["privacy"]["epsilon"] <= 8.0
    assert ledger.spent() == pytest.approx(report.spent) == pytest.approx(summary["privacy"]["epsilon"])
    assert is_private(out)
    assert np.isfinite(report.metrics["click_auc"])
    RankerSession(out / "ranker.onnx")
    assert trained_ranker(out).data.n_items == 40

    with pytest.raises(BudgetSpent, match="ranker would bring"):
        main(configured(world), ledger)
    assert len(ledger.entries()) == 1


def test_a_day_ends_the_training_period_whatever_other_users_do(world: Path, tmp_path: Path) -> None:
    config = configured(world, out=tmp_path / "ranker", until=date(1970, 1, 13))
    report = main(config, Ledger(tmp_path / "privacy.json", 10.0, 1e-4))
    assert report.privacy["takes_as_public"] == "counts of all users on an item"
    other = configured(world, out=tmp_path / "other" / "ranker")
    by_share = main(other, Ledger(tmp_path / "other.json", 10.0, 1e-4))
    assert "where the training period ends" in str(by_share.privacy["takes_as_public"])
    with pytest.raises(InvalidConfig, match="name a later day"):
        main(config.replace(until=date(1970, 1, 1)), Ledger(tmp_path / "none.json", 10.0, 1e-4))
    assert not (tmp_path / "none.json").exists()


def test_a_lost_ledger_is_not_an_empty_one(world: Path, tmp_path: Path) -> None:
    config, ledger = configured(world, out=tmp_path / "ranker"), Ledger(tmp_path / "privacy.json", 20.0, 1e-4)
    main(config, ledger)
    ledger.path.unlink()
    for work in (config.out, tmp_path / "two_tower"):
        with pytest.raises(InvalidData, match="ranker was trained privately: what was spent is not known"):
            pay(ledger, "any", [Spend(1.0)], work)
    assert not ledger.path.exists()


def test_a_plain_training_that_is_killed_leaves_nothing_that_is_called_private(
    world: Path, tmp_path: Path
) -> None:
    config = configured(world, out=tmp_path / "ranker")
    main(config, Ledger(tmp_path / "privacy.json", 10.0, 1e-4))
    write_model(trained_ranker(config.out), 50, config.out, 0)  # and no summary
    assert not is_private(config.out)


def test_no_plain_ranker_is_called_private(tmp_path: Path) -> None:
    assert not is_private(tmp_path)
    (tmp_path / "summary.json").write_text('{"metrics": {}}')
    assert not is_private(tmp_path)


@pytest.mark.parametrize("change", [{"offset": True}, {"item_buckets": 4}, {"dropout": 0.1}])
def test_a_model_that_is_not_private_is_refused_before_anything_is_spent(
    world: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    shape = {**vars(configured(world).model), **change}
    ledger = Ledger(tmp_path / "privacy.json", 10.0, 1e-4)
    with pytest.raises(InvalidConfig, match=next(iter(change))):
        main(configured(world, model=shape), ledger)
    assert not ledger.entries()


def test_counts_of_others_events_on_an_item_are_not_read() -> None:
    own = {FEATURES.names[column] for column in own_columns(FEATURES)}
    assert {
        "user_clicks_30d_settled",
        "hour",
        "item_age_days",
        "item_price",
        "item_in_history",
    } - own == set()
    assert {"item_ctr_ever", "item_shown_ever", "item_seconds_since_engaged_ever"} & own == set()
    assert {name.split("_")[0] for name in set(FEATURES.names) - own} == {"item"}
