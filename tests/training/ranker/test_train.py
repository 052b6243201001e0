import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import Head
from recsys.features.drift import read_histograms
from recsys.models.ranker import Ranker, RankerConfig
from recsys.ranking.calibration import read_calibrations
from recsys.ranking.scorer import RankerSession
from tests.training.ranker.rank_fixture import N_FEATURES, write_world
from training.ranker import train as train_ranker
from training.ranker.dataset import RankExamples, read_examples, temporal_split
from training.ranker.export import export_ranker
from training.ranker.loop import LoopConfig, fit, log1mexp, predict
from training.ranker.train import RankerTraining, ranker_data

SMALL = RankerConfig(width=8, expert_layers=(16, 8), tower_layers=(), shared_experts=2, cross_rank=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture(scope="module")
def splits(world: Path) -> tuple[RankExamples, RankExamples]:
    ids = [f"i{n:03d}" for n in range(40)]
    return temporal_split(read_examples(world / "examples", ids, N_FEATURES, 6), 0.25)


def build(train: RankExamples, seed: int = 0) -> Ranker:
    torch.manual_seed(seed)
    fields = np.concatenate([[[0]], np.arange(40).reshape(-1, 1) % 4 + 1])
    return Ranker(SMALL, ranker_data(train, 40, fields, (5,), SMALL.bins))


@pytest.mark.slow
def test_main_learns_the_truth_and_leaves_what_a_bundle_needs(world: Path, tmp_path: Path) -> None:
    config = RankerTraining(
        n_features=N_FEATURES,
        examples=world / "examples",
        items=world / "items" / "items.parquet",
        out=tmp_path / "work",
        checkpoints=tmp_path / "checkpoints",
        history_length=6,
        validation=0.25,
        model=SMALL,
        loop=LoopConfig(epochs=6, batch_size=256, learning_rate=1e-2),
    )
    report = train_ranker.main(config)

    assert report.metrics["click_auc"] > 0.75  # the truth's own order has about .80
    assert report.metrics["click_gauc"] > 0.70
    assert report.metrics["dwell_xauc"] > 0.6
    assert report.metrics["click_calibration_error"] < 0.1  # 1000 rows: noise alone is .05
    assert {p.name for p in config.out.iterdir()} == {
        "ranker.onnx",
        "golden.safetensors",
        "calibration.json",
        "uncertainty.json",
        "feature_histograms.json",
        "summary.json",
        "weights.safetensors",  # these three: what a night's update goes on from
        "shape.json",
        "warm_start.json",
    }
    histograms = read_histograms(config.out / "feature_histograms.json")
    assert len(histograms) == config.n_features
    assert all(sum(histogram.shares) == pytest.approx(1) for histogram in histograms)
    assert set(read_calibrations(config.out / "calibration.json")) == {Head.CLICK, Head.CONVERSION, Head.LIKE}
    assert json.loads((config.out / "summary.json").read_text())["metrics"] == report.metrics
    curve = json.loads((config.out / "summary.json").read_text())["curve"]
    assert [epoch["epoch"] for epoch in curve] == list(range(1, report.epochs + 1))

    golden = load_file(config.out / "golden.safetensors")
    session = RankerSession(config.out / "ranker.onnx")
    found = session.run(
        {n.removeprefix("ranker/in/"): a for n, a in golden.items() if n.startswith("ranker/in/")}
    )
    for head in Head:
        np.testing.assert_allclose(found[head], golden[f"ranker/out/{head}"], rtol=1e-5, atol=1e-6)
        assert np.isfinite(found[head]).all()


def test_a_killed_run_ends_with_the_same_weights(
    splits: tuple[RankExamples, RankExamples], tmp_path: Path
) -> None:
    train, validation = splits
    config = LoopConfig(epochs=3, batch_size=512, patience=9)
    whole = build(train)
    fit(whole, train, validation, config)

    class Killed(Exception):
        pass

    def kill(epoch: int, _: float) -> None:
        if epoch == 3:
            raise Killed

    path = tmp_path / "checkpoint"
    with pytest.raises(Killed):
        fit(build(train), train, validation, config, checkpoints=path, report=kill)
    resumed = build(train, seed=9)  # whatever it starts from, the checkpoint has the weights
    assert fit(resumed, train, validation, config, checkpoints=path) == 3
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert not path.exists()


def test_the_best_epoch_is_restored_and_patience_ends_the_run(
    splits: tuple[RankExamples, RankExamples],
) -> None:
    train, validation = splits
    scores: list[float] = []
    config = LoopConfig(epochs=9, batch_size=4_000, learning_rate=0.0, patience=2)
    fit(build(train), train, validation, config, report=lambda _, score: scores.append(score))
    # nothing changes at learning rate 0: best is epoch 1, then two without a better one
    assert len(scores) == 4


def test_loss_is_finite_at_both_ends() -> None:
    x = torch.tensor([-1e-12, -1e-3, -1.0, -50.0, -1e4], dtype=torch.float64)
    found = log1mexp(x)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[1:4], torch.log1p(-torch.exp(x[1:4])))


@pytest.mark.slow
def test_an_export_that_differs_from_torch_is_refused(
    splits: tuple[RankExamples, RankExamples], tmp_path: Path
) -> None:
    class Fickle(torch.nn.Module):
        """Another answer in each call, so the exported one cannot match."""

        def __init__(self, ranker: Ranker) -> None:
            super().__init__()
            self.ranker, self.calls = ranker, 0

        def forward(self, *inputs: torch.Tensor) -> object:
            self.calls += 1
            logits = self.ranker(*inputs)
            return logits._replace(click=logits.click + self.calls)

    with pytest.raises(InvalidBundle, match="click differs from torch"):
        export_ranker(Fickle(build(splits[0])).eval(), tmp_path / "ranker.onnx", 40, N_FEATURES, 6, 0)
    assert not (tmp_path / "ranker.onnx").exists()


def test_position_is_fixed_in_prediction(splits: tuple[RankExamples, RankExamples]) -> None:
    train, validation = splits
    ranker = build(train)
    moved = replace(validation, position=validation.position + 5)
    np.testing.assert_array_equal(predict(ranker, validation)[Head.CLICK], predict(ranker, moved)[Head.CLICK])
