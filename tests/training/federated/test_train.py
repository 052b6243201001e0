"""Rounds, devices that follow them, resuming, attackers, and the exported model as it is served."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from recsys.bundle import Bundle, Manifest
from recsys.contracts.errors import BudgetSpent, InvalidConfig, InvalidData, Unavailable
from recsys.contracts.types import Item
from recsys.items.item_table import items_table
from recsys.lake.lake import write_parquet
from recsys.models.golden import golden_part
from recsys.recall.two_tower import UserTower
from serving.engine.golden import check_tower
from tests.training.evaluation.histories import history
from training.evaluation.federated import sent_by
from training.federated import export, rounds, train
from training.federated.adam import SphereAdam
from training.federated.attacks import Attack
from training.federated.config import Cohorts, Defence, FederatedConfig, FederatedRecipe
from training.federated.population import Population, cohort
from training.federated.privacy import epsilon, spend_of
from training.federated.robust import trusted_groups
from training.federated.rounds import Simulation, apply
from training.federated.scorer import pooled_scorer
from training.federated.secure_client import PublicKeys, SumClient
from training.federated.tower import PooledShape
from training.federated.train import FederatedResult, main
from training.privacy.ledger import Ledger
from training.privacy.randomness import SecureRandomness
from training.private.work_folder import is_private
from training.two_tower.sequences import History, write_sequences

N_ITEMS = 24


def chains(users: int) -> list[History]:
    """Everybody takes items in the order of their numbers, from a random one on, around the circle."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, N_ITEMS, users).tolist()
    return [history(f"u{u:03}", *((s + np.arange(8)) % N_ITEMS + 1).tolist()) for u, s in enumerate(starts)]


@pytest.fixture
def config(tmp_path: Path) -> FederatedConfig:
    items = [Item(f"i{n:02}", "a film", ("odd" if n % 2 else "even",)) for n in range(N_ITEMS)]
    write_sequences(tmp_path / "sequences" / "a.parquet", chains(80), items)
    write_parquet(tmp_path / "items.parquet", items_table(items))
    return FederatedConfig(
        sequences=tmp_path / "sequences",
        items=tmp_path / "items.parquet",
        work=tmp_path / "work",
        shape=PooledShape(dim=16, half_lives=(0.5, 4.0)),
        cohorts=Cohorts(rate=0.5, group=8, length=8, targets=4, negatives=0),
        rounds=100,
        rank=4,
        learning_rate=0.1,
        warmup=0.02,
        defence=None,
    )


def next_is_first(result: FederatedResult) -> float:
    """Share of neighbours on the circle after which the next item scores highest of those that the user lacks."""
    scorer = pooled_scorer(result.vectors, result.config.shape, 8)
    last = np.arange(N_ITEMS)
    before = np.roll(last, 1)
    pairs = zip(before.tolist(), last.tolist(), strict=True)
    scores = scorer([history("x", a + 1, b + 1) for a, b in pairs], [0] * N_ITEMS)
    scores[last, last] = scores[last, before] = -np.inf
    return float((scores.argmax(1) == np.roll(last, -1)).mean())


def test_it_learns_who_comes_after_whom(config: FederatedConfig) -> None:
    result = main(config)
    assert next_is_first(result) > 0.9
    assert result.rounds[-1].loss < result.rounds[0].loss / 2
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1, rtol=1e-5)
    assert result.seen_by.sum() == 80 * 8


def test_masks_change_nothing(config: FederatedConfig) -> None:
    short = config.replace(rounds=2, dropouts=0.15, cohorts=config.cohorts.replace(rate=0.2))
    plain, masked = main(short), main(short.replace(masked=True, work=config.work / "masked"))
    np.testing.assert_array_equal(plain.vectors, masked.vectors)


def test_a_sum_that_one_client_spoils_is_an_abandoned_group(
    config: FederatedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, low_order = SumClient.public_keys, PublicKeys(bytes(32), (1).to_bytes(32, "little"))

    def public_keys(client: SumClient) -> PublicKeys:
        return low_order if (client.number, client._plan.name) == (2, "0/1") else own(client)

    monkeypatch.setattr(SumClient, "public_keys", public_keys)
    defence = Defence(longest=10.0, attackers=0.05)
    simulation = Simulation(config.replace(masked=True, defence=defence), Population(chains(80)))
    done = simulation.round(0, SphereAdam.new(0, N_ITEMS, 16))
    assert done.abandoned == 1 < done.groups
    assert (simulation.suspicion.chances > 0.05).sum() in (8, 9, 10), "its group, and nobody else"


def test_a_device_follows_by_the_updates_alone(config: FederatedConfig) -> None:
    """Its copy, from the public seed and each round's update, is the server's to the bit."""
    server, device = (SphereAdam.new(config.seed, N_ITEMS, 16) for _ in range(2))
    simulation = Simulation(config, Population(chains(80)))
    updates = []
    for number in range(5):
        updates.append(simulation.round(number, server).update)
        apply(server, config, number, updates[-1])
    for number, update in enumerate(updates):
        apply(device, config, number, update)
    np.testing.assert_array_equal(server.vectors, device.vectors)
    assert updates[0].coefficients.dtype == np.int8
    assert updates[0].coefficients.size == N_ITEMS * config.rank


def test_an_interrupted_run_continues_to_the_same_model(
    config: FederatedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the server to suspect the same clients: about half of the groups are too long for this defence."""
    config = config.replace(rounds=6, defence=Defence(longest=1.4))
    whole = main(config.replace(work=config.work / "whole"))
    assert sum(report.left_out for report in whole.rounds) > 0 < sum(report.groups for report in whole.rounds)
    often = config.replace(checkpoint_s=0.0)
    step = rounds.apply

    def killed(model: SphereAdam, config: FederatedRecipe, number: int, update: rounds.RoundUpdate) -> None:
        if number == 4:
            raise KeyboardInterrupt
        step(model, config, number, update)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "apply", killed)
        main(often)
    resumed = main(often)
    np.testing.assert_array_equal(whole.vectors, resumed.vectors)
    assert resumed.rounds == whole.rounds
    kept = [load_file(work / train.CHECKPOINT)["suspicion"] for work in (config.work, config.work / "whole")]
    np.testing.assert_array_equal(*kept)
    assert len(set(kept[0].tolist())) > 2
    with pytest.raises(InvalidConfig, match="--fresh"):
        main(often.replace(rank=2))
    (config.work / train.CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(InvalidData, match="delete it to restart"):
        main(often)


def test_too_few_clients_are_an_error_that_says_what_to_do(config: FederatedConfig) -> None:
    with pytest.raises(
        InvalidData, match=r"80 clients .* 40 per round: fewer than a group of 64; raise cohorts.rate"
    ):
        main(config.replace(cohorts=config.cohorts.replace(group=64)))
    for few in (1, 30):
        with pytest.raises(Unavailable, match=f"every group of {min(few, 20)} rounds was abandoned; lower"):
            main(config.replace(dropouts=0.99, rounds=few, work=config.work / str(few)))


def test_a_round_without_a_group_does_not_end_the_run(
    config: FederatedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = iter([0, 100, 7, 100])  # a group has 8
    monkeypatch.setattr(rounds, "cohort", lambda n, rate, rng: cohort(n, rate, rng)[: next(sizes)])
    found = main(config.replace(rounds=4))
    assert [report.groups > 0 for report in found.rounds] == [False, True, False, True]
    assert [report.clients for report in found.rounds[::2]] == [0, 0]


@pytest.mark.parametrize("clients", [80, 7])
def test_noise_is_added_to_the_sum_in_units_of_its_bound(
    config: FederatedConfig, clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.5 · 1.1 · 2 / (0.5 · 80) to the mean, however many take part; without a group there is nothing else."""
    publish, means = rounds._update, []

    def published(mean: NDArray[np.float64], rng: np.random.Generator) -> rounds.RoundUpdate:
        means.append(mean)
        return publish(mean, rng)

    monkeypatch.setattr(rounds, "cohort", lambda n, rate, rng: cohort(n, rate, rng)[:clients])
    monkeypatch.setattr(SecureRandomness, "normal", lambda self, n: np.ones(n))
    monkeypatch.setattr(rounds, "_update", published)
    monkeypatch.setattr(Simulation, "_rng", lambda self, number: np.random.default_rng(number))
    for noise in (0.0, 0.5):
        simulation = Simulation(config.replace(clip=2.0, noise=noise), Population(chains(80)))
        done = simulation.round(0, SphereAdam.new(0, N_ITEMS, 16))
        assert bool(done.groups) == (clients == 80)
    np.testing.assert_allclose(means[1], (means[0] * done.clients + 0.5 * 1.1 * 2) / (0.5 * 80))


def test_a_defence_that_leaves_out_everybody_ends_the_run(config: FederatedConfig) -> None:
    with pytest.raises(
        InvalidConfig, match="every group of 20 rounds: .* raise defence.longest.* lower cohorts.group"
    ):
        main(config.replace(defence=Defence(longest=0.01)))


def test_noise_goes_with_nothing_that_single_clients_decide(config: FederatedConfig) -> None:
    with pytest.raises(ValueError, match="set defence=null"):
        config.replace(noise=1.0, defence=Defence())
    with pytest.raises(ValueError, match="set dropouts=0"):
        config.replace(noise=1.0, dropouts=0.1)


def test_a_private_model_says_how_private_it_is(config: FederatedConfig, tmp_path: Path) -> None:
    noisy = main(config.replace(noise=1.0, rounds=1))
    assert not noisy.seen_by.any(), "counts would be published without noise"
    summary = json.loads((export.main(noisy, tmp_path / "out") / "summary.json").read_text(encoding="utf-8"))
    assert summary.keys() == {"config", "metrics", "seed", "privacy"}, "no losses: clients do not send them"
    assert summary["privacy"]["epsilon"] == epsilon(noisy.config, 80)
    assert summary["privacy"]["delta"] == 1 / 800
    assert is_private(tmp_path / "out"), "a night without noise must not continue it"
    with pytest.raises(InvalidConfig, match="40 clients, by chance fewer than a group of 30; one client"):
        main(config.replace(noise=1.0, cohorts=config.cohorts.replace(group=30)))


def test_noise_is_paid_for_once_however_often_a_run_is_interrupted(
    config: FederatedConfig, tmp_path: Path
) -> None:
    noisy, ledger = config.replace(noise=3.0, rounds=2), Ledger(tmp_path / "privacy.json", 5.0, 1e-3)

    def stop(done: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        main(noisy.replace(checkpoint_s=0.0), stop, ledger)
    assert [entry.spends for entry in ledger.entries()] == [(spend_of(noisy),)]
    main(noisy.replace(work=tmp_path / "done"), ledger=ledger)
    main(noisy.replace(work=tmp_path / "done"), ledger=ledger)  # continues: there is nothing left to do
    assert len(ledger.entries()) == 2
    with pytest.raises(BudgetSpent):
        main(noisy.replace(noise=0.5, work=tmp_path / "other"), ledger=ledger)
    main(config.replace(rounds=1, work=tmp_path / "plain"), ledger=ledger)
    assert len(ledger.entries()) == 2, "without noise there is no promise to pay for"


def test_with_noise_the_seed_tells_nobody_who_takes_part(config: FederatedConfig) -> None:
    def cohorts(noise: float, is_repeatable: bool) -> list[int]:
        taken: list[int] = []

        def sent(clients: NDArray[np.int64], updates: NDArray[np.int8]) -> NDArray[np.int8]:
            taken.extend(clients.tolist())
            return updates

        simulation = Simulation(config.replace(noise=noise), Population(chains(80)), sent, is_repeatable)
        simulation.round(0, SphereAdam.new(0, N_ITEMS, 16))
        return taken

    seeded = cohorts(0.0, is_repeatable=False)
    assert cohorts(1.0, is_repeatable=True) == seeded
    assert cohorts(1.0, is_repeatable=False) != seeded != cohorts(1.0, is_repeatable=False)


def test_a_group_whose_sum_is_too_long_is_left_out() -> None:
    """Nine orthogonal honest updates of length 2 have a sum of length 6, which is the limit."""
    honest = np.eye(9)[:, :9].sum(0) * 2
    sums, sizes = np.stack([honest, honest * 1.01, honest * 0]), np.array([9, 9, 9])
    assert trusted_groups(sums, sizes, 2.0, Defence(longest=1.0)).tolist() == [True, False, True]
    assert trusted_groups(sums, sizes, 2.0, None).all()


def test_attackers_spoil_the_model_unless_their_groups_are_left_out(config: FederatedConfig) -> None:
    histories = chains(160)
    sent = sent_by(Attack.FLIP, 0.05, len(histories), seed=1)

    def trained(defence: Defence | None) -> tuple[float, float]:
        """How good the model is, and the share of the groups that counted in the last ten rounds."""
        recipe, model, done = config.replace(defence=defence), SphereAdam.new(0, N_ITEMS, 16), []
        simulation = Simulation(recipe, Population(histories), sent)
        for number in range(recipe.rounds):
            done.append(simulation.round(number, model))
            apply(model, recipe, number, done[-1].update)
        result = FederatedResult(model.vectors, np.zeros(N_ITEMS, np.int64), [], config, [], {})
        last = sum(found.groups for found in done[-10:])
        return next_is_first(result), last / (last + sum(found.left_out for found in done[-10:]))

    assert trained(None)[0] < 0.5
    good, counted = trained(Defence(longest=1.5, attackers=0))
    assert good > 0.9
    good, traced = trained(Defence(longest=1.5))
    assert good > 0.9
    assert traced > 0.85 > counted, "attackers are kept together"


def test_the_export_serves_as_a_user_tower(config: FederatedConfig, tmp_path: Path) -> None:
    result = main(config)
    (tmp_path / "two_tower").mkdir()
    (tmp_path / "two_tower" / "warm_start.json").write_text("of another training", encoding="utf-8")
    work = export.main(result, tmp_path / "two_tower", neighbours=5, served_length=10)
    vectors = load_file(work / "item_vectors.safetensors")
    served = UserTower(work / "user_tower.onnx", vectors["vectors"])
    golden = load_file(work / "golden.safetensors")
    inputs = golden_part(golden, "user_tower/in/")
    assert not inputs["history"][0].any(), "an empty history is among the golden ones"
    manifest = Manifest("v", 0, "", (), (0, 0), 0, {}, {}, files={"golden.safetensors": ""})
    check_tower(Bundle(work, manifest), served)  # as a model host does before it serves
    two = {"history": np.array([[4, 5]]), "types": np.array([[1, 1]]), "gaps": np.array([[3, 9]])}
    scores = vectors["vectors"] @ served.vectors(**two)[0]
    scores[[3, 4]] = -np.inf
    assert scores.argmax() == 5
    similar = load_file(work / "item_to_item.safetensors")
    assert similar["neighbours"].shape == (N_ITEMS, 5)
    assert (similar["neighbours"] != np.arange(N_ITEMS)[:, None]).all()
    popular = load_file(work / "popular.safetensors")
    np.testing.assert_array_equal(popular["scores"], np.sort(result.seen_by)[::-1])
    assert not (work / "warm_start.json").exists()
