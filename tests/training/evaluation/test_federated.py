"""`recsys evaluate federated` on a tiny log: its figures, its bytes, its privacy accounting."""

import math
import zlib
from pathlib import Path

import numpy as np
import pytest

from infra.evaluation.reports.federated import draw
from training.evaluation import federated as evaluated
from training.evaluation.federated import (
    FederatedEvaluation,
    Judged,
    equal_sums,
    main,
    ratio_of,
    sent_by,
)
from training.evaluation.sources import SEQUENCES
from training.federated.attacks import Attack
from training.federated.config import Cohorts, FederatedRecipe
from training.federated.payload import Payload, update_bytes
from training.federated.privacy import delta_of, epsilon, noise_for
from training.federated.rounds import RoundUpdate
from training.federated.tower import PooledShape

RECIPE = FederatedRecipe(
    shape=PooledShape(dim=16, half_lives=(1.0, 8.0)),
    cohorts=Cohorts(rate=0.5, group=8, length=10, targets=2, negatives=8),
    rounds=8,
    rank=1,
)


@pytest.fixture
def config(tmp_path: Path) -> FederatedEvaluation:
    rng = np.random.default_rng(0)
    lines = [" ".join(map(str, [f"u{user}", *(rng.permutation(30)[:8] + 1)])) for user in range(60)]
    (tmp_path / SEQUENCES).write_text("\n".join(lines), encoding="utf-8")
    return FederatedEvaluation(
        data=tmp_path,
        recipe=RECIPE,
        central_steps=4,
        central_users=20,
        attack_rounds=2,
        noise_rounds=2,
        epsilons=(8.0,),
        sums=2,
    )


def test_the_whole_run(config: FederatedEvaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        evaluated, "noise_for", lambda target, recipe, clients: 8 / target
    )  # the search is slow
    lines: list[str] = []
    result = main(config, lines.append)
    assert result.figures["clients"] == 60
    assert result.figures["masked_sums_equal"] == 1
    assert {"flip_cost", "flip_cost_undefended", "hidden_cost", "epsilon8_hr10"} <= result.figures.keys()
    assert result.goals.keys() <= result.figures.keys()
    assert len(lines) == 13  # a model each, and four of the long training
    assert main(config).figures == result.figures, "the same seed gives the same figures"
    draw(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_without_curves(config: FederatedEvaluation) -> None:
    assert "flip_cost" not in main(config.replace(curves=False, central_steps=1)).figures


def test_a_ratio_and_its_interval() -> None:
    half, most = (Judged(np.array(hits, float), np.zeros(100)) for hits in ([1, 0] * 50, [1, 1, 1, 0] * 25))
    found = ratio_of(half, most)
    assert found["federated_over_central_hr10"] == pytest.approx(2 / 3)
    assert (
        0.5
        < found["federated_over_central_hr10_low"]
        < 2 / 3
        < found["federated_over_central_hr10_high"]
        < 0.85
    )


def test_a_sum_that_differs_is_noticed(config: FederatedEvaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert equal_sums(config, 5) == 1
    monkeypatch.setattr("training.federated.secure_server.mask", lambda key, n: np.zeros(n, np.uint16))
    assert equal_sums(config, 5) == 0


def test_payload_counts_every_byte() -> None:
    """Up: two keys, 7 sealed messages of 82 bytes, 480 words, 8 shares; two bytes with each say whose it is. Down: 8
    pairs of keys, 7 messages, 8 numbers, and two updates for each round of the client's own."""
    payload = Payload(RECIPE.replace(rank=16), 30, update=100.0)
    assert payload.up == 64 + 7 * 84 + 2 * 480 + 8 * 35
    assert payload.down == 8 * 66 + 7 * 84 + 8 * 2 + 200
    assert payload.whole == 4 * 480
    assert payload.share == (payload.up + payload.down) / (2 * 1920)
    assert payload.total_mb == pytest.approx(8 * 0.5 * (payload.up + payload.down) / 1e6)
    sent = RoundUpdate(np.arange(100, dtype=np.int8), 0.1)
    assert update_bytes(sent) == 4 + len(zlib.compress(sent.coefficients.tobytes()))


def test_attackers_are_the_same_clients_in_every_round() -> None:
    clients, updates = np.arange(200), np.ones((200, 3), np.int8)
    sent = sent_by(Attack.FLIP, 0.1, 200, seed=0)
    first, second = sent(clients, updates), sent(clients, updates)
    np.testing.assert_array_equal(first, second)
    assert set(first[:, 0].tolist()) == {1, -50}
    assert (first[:, 0] == -50).sum() == pytest.approx(20, abs=12)


def test_accounting_is_that_of_the_subsampled_gaussian() -> None:
    """Published for DP-SGD (Abadi et al. 2016, section 3.2): noise 4, rate .01, 10,000 steps, δ 1e-5 give ε 1.26. The
    same moments in the tighter conversion of Balle et al. (2020, theorem 21) are opacus's."""
    recipe = RECIPE.replace(noise=4.0, defence=None, rounds=10_000, cohorts=RECIPE.cohorts.replace(rate=0.01))
    orders = np.arange(12, 64)
    moments = [
        sum(math.comb(a, k) * 0.99 ** (a - k) * 0.01**k * math.exp((k * k - k) / 32) for k in range(a + 1))
        for a in orders.tolist()
    ]
    divergences = 10_000 * np.log(moments) / (orders - 1)
    loose = divergences - np.log(1e-5) / (orders - 1)
    assert loose.min() == pytest.approx(1.26, abs=0.005)
    tight = loose - np.log(orders) / (orders - 1) + np.log(1 - 1 / orders)
    assert delta_of(10_000) == 1e-5
    assert epsilon(recipe, 10_000) == pytest.approx(tight.min(), rel=1e-6)
    assert epsilon(RECIPE, 10_000) == float("inf")
    noise = noise_for(1.0, recipe, 10_000)
    assert 0.98 < epsilon(recipe.replace(noise=noise), 10_000) <= 1.0
