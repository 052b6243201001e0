"""The search of the two-tower's settings on planted data: it beats a poor default on other cases, and continues."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

from infra.cli.training_options import Planned, TrainingOptions
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.result import Result
from tests.training.two_tower.test_train import config
from training.two_tower import train, tune
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.data import read_training_data
from training.two_tower.train import OnProgress
from training.two_tower.tune import BEST, RecallTuning, halves, main, near, propose, settings_of

__all__ = ["config"]  # the fixture


@dataclass
class Search:
    """A search from a default that learns next to nothing."""

    base: TwoTowerConfig
    out: Path

    def run(
        self,
        trials: int,
        clock: Callable[[], float] = lambda: 0.0,
        progress: OnProgress = lambda phase, done, epochs: None,
        seed: int = 6,  # whose proposal is small
    ) -> Result:
        tuning = RecallTuning(out=self.out, minutes=1, trials=trials, least_cases=20, seed=seed)
        return main(tuning, self.base, progress=progress, clock=clock)


@pytest.fixture
def search(config: TwoTowerConfig, tmp_path: Path) -> Search:
    return Search(config.replace(learning_rate=1e-6, epochs=4, patience=40), tmp_path / "tune")


@pytest.mark.slow
def test_it_gains_on_cases_that_did_not_choose_and_writes_what_train_recall_reads(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = search.run(trials=2, seed=0)  # whose proposal learns
    figures = result.figures
    assert result.met
    assert (figures["trials"], figures["cases"]) == (2, 100)  # half of 200 last items
    assert figures["gain_ndcg10_high"] > figures["gain_ndcg10"] > figures["gain_ndcg10_low"] > 0
    assert figures["gain_ndcg10"] == pytest.approx(figures["best_ndcg10"] - figures["default_ndcg10"])
    file = search.out / BEST
    paths = {name: getattr(search.base, name) for name in ("sequences", "items", "work")}
    read = TrainingOptions(file).of(Planned(TwoTowerConfig(**paths), {}))
    assert read.model_dump(mode="json").items() >= yaml.safe_load(file.read_text()).items()
    assert settings_of(read) != settings_of(search.base)
    assert (read.patience, read.refit, read.validation) == (40, True, search.base.validation), "as asked"
    assert "100 held-out events" in file.read_text().splitlines()[0]

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "main", fail)
    assert search.run(trials=2, seed=0).figures == figures  # a finished search


@pytest.mark.slow
def test_an_interrupted_trial_continues_from_its_checkpoint(search: Search) -> None:
    """The time is over in the second trial, after its first epoch."""
    seen: list[tuple[float, int]] = []

    def clock() -> float:
        return 61.0 if len(seen) > 1 and seen[-1][0] < seen[-2][0] else 0.0  # another trial has begun

    def progress(phase: str, done: float, epochs: int) -> None:
        if not seen or done < seen[-1][0] or len(seen) < 2:
            seen.append((done, epochs))
        else:
            seen[-1] = (done, epochs)

    assert search.run(2, clock, progress).figures["trials"] == 1
    (checkpoint,) = search.out.glob("checkpoints-*/fit.safetensors")
    assert checkpoint.stat().st_size
    resumed: list[tuple[float, int]] = []
    result = search.run(2, progress=lambda phase, done, epochs: resumed.append((done, epochs)))
    assert result.figures["trials"] == 2
    assert resumed[0][0] > 1  # not from the start
    assert resumed[0][1] == seen[-1][1]  # with the same epochs, so the same proposal


def test_the_halves_have_no_case_in_common(config: TwoTowerConfig) -> None:
    deciding, judges = halves(config, least=20)
    held = read_training_data(deciding).held_out
    assert held is not None
    assert len(held) == len(judges) == 100
    assert not {h.user_id for h in held.histories} & {h.user_id for h in judges.histories}


def test_a_search_needs_enough_held_out_events(config: TwoTowerConfig) -> None:
    with pytest.raises(InvalidData, match="200 events can be held out"):
        halves(config, least=201)
    with pytest.raises(InvalidConfig, match="validation=last_item"):
        halves(config.replace(validation=Validation.NONE), least=1)


def test_other_data_is_another_study(config: TwoTowerConfig) -> None:
    name = tune.study_name(config)
    assert tune.study_name(config.replace(work=Path("elsewhere"), threads=2)) == name
    assert tune.study_name(config.replace(patience=5)) != name
    (config.sequences / "b.parquet").write_bytes((config.sequences / "a.parquet").read_bytes())
    assert tune.study_name(config) != name


def test_what_is_near_the_default_can_be_proposed(config: TwoTowerConfig) -> None:
    base = config.replace(epochs=99, learning_rate=0.5)
    proposed = propose(optuna.trial.FixedTrial(near(base)), base)  # type: ignore[arg-type]
    assert (proposed.epochs, proposed.learning_rate, proposed.shape.dim) == (40, 0.01, 32)
    assert (
        proposed.replace(
            **{k: getattr(base, k) for k in ("epochs", "learning_rate", "shape", "batch_tokens")}
        )
        == base
    )
    assert np.isclose(proposed.shape.dropout, base.shape.dropout)
