"""The two-tower's users against the usual loss, what one user can change, and a private training end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from recsys.contracts.errors import BudgetSpent, InvalidConfig
from recsys.contracts.events import Event
from recsys.contracts.types import EventType, Item
from recsys.items.item_table import items_table
from recsys.lake.lake import EVENTS, day_writer, events_table, write_parquet
from recsys.models.two_tower import ItemTable, TwoTower
from recsys.recall.ann import AnnIndex
from recsys.recall.two_tower import UserTower
from serving.engine.golden import check_tower
from training.features.trust import TRUST
from training.privacy.ledger import Ledger
from training.privacy.randomness import SeededRandomness
from training.private.gradients import Sums
from training.private.item_counts import private_counts, start_from
from training.private.loop import Plan, plan
from training.private.train_two_tower import SMALL, PrivateTwoTower, TwoTowerRecipe, main, trained
from training.private.two_tower import TwoTowerLearner, TwoTowerLoop
from training.private.work_folder import is_private, trust_left_out
from training.publish import PublishConfig
from training.publish import main as publish
from training.two_tower.batches import make_batch
from training.two_tower.export import USER_TOWER
from training.two_tower.losses import sampled_cross_entropy
from training.two_tower.retrieval import two_tower_scorer
from training.two_tower.sequences import History, write_sequences

N_ITEMS = 30
ITEMS = [Item(f"i{n:02}", categories=(f"c{n % 3}",) if n % 4 else ()) for n in range(N_ITEMS)]
SHAPE = SMALL.model_copy(update={"dim": 8, "attribute_buckets": 64})
LOOP = TwoTowerLoop(delta=1e-4, epochs=2, users_per_step=50, max_length=8, negatives=N_ITEMS)


def history(user: str, numbers: NDArray[np.int64]) -> History:
    n = len(numbers)
    return History(user, numbers, np.full(n, 2), 1_000_000 + 60_000 * np.arange(n))


def histories(users: int, seed: int = 0) -> list[History]:
    """Of 1 to 12 events, items again among them."""
    rng = np.random.default_rng(seed)
    return [history(f"u{u:03}", rng.integers(1, N_ITEMS + 1, rng.integers(1, 13))) for u in range(users)]


def chains(users: int) -> list[History]:
    """Item n is followed by item n + 7."""
    starts = np.random.default_rng(0).integers(0, N_ITEMS, users)
    return [history(f"u{u:03}", (start + 7 * np.arange(6)) % N_ITEMS + 1) for u, start in enumerate(starts)]


def model_of() -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(SHAPE, ITEMS)


def learner_of(theirs: list[History], loop: TwoTowerLoop = LOOP) -> TwoTowerLearner:
    return TwoTowerLearner(model_of(), SHAPE, theirs, loop, seed=0)


def sums_of(learner: TwoTowerLearner, clip: float = 1.0) -> Sums:
    return Sums.of(learner, np.arange(len(learner)), clip)


def flat(sums: Sums) -> Tensor:
    return torch.cat([part.flatten() for part in (*sums.dense.values(), *sums.tables.values())])


def plain_gradient(model: TwoTower, one: History, negatives: Tensor, max_length: int) -> dict[str, Tensor]:
    """Of the sum of the losses of one user's targets, as the usual training has them."""
    model.zero_grad()
    batch = make_batch([one], max_length)
    inputs, targets = [torch.from_numpy(column) for column in batch[:3]], torch.from_numpy(batch.targets)
    table, even = ItemTable(model.items), torch.full((N_ITEMS,), 1 / N_ITEMS)
    users = model(*inputs, items=table)[targets > 0]
    sampled_cross_entropy(users, targets[targets > 0], negatives, table, even).backward()  # type: ignore[no-untyped-call]
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("negatives", [N_ITEMS, 10])
def test_each_users_gradient_is_that_of_the_usual_loss_clipped(negatives: int) -> None:
    theirs, clip = histories(20), 25.0
    loop = LOOP.replace(negatives=negatives)
    sums, model = sums_of(learner_of(theirs, loop), clip), model_of()
    drawn = learner_of(theirs, loop).begin_step()["items.ids"]  # as in the first step of any with this seed
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    norms = []
    for one in theirs:
        found = plain_gradient(model, one, drawn, LOOP.max_length)
        norms.append(float(torch.stack([g.square().sum() for g in found.values()]).sum().sqrt()))
        for name, gradient in found.items():
            expected[name] += gradient * min(1.0, clip / norms[-1])
    assert min(norms) < clip < max(norms), "some are clipped and some are not"
    assert (sums.users, sums.clipped) == (len(norms), sum(norm > clip for norm in norms))
    for name, total in {**sums.dense, **{f"{n}.weight": t for n, t in sums.tables.items()}}.items():
        torch.testing.assert_close(total, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("events", [1, 5, 500])
def test_a_user_moves_the_sum_by_at_most_the_clip_however_many_events_she_has(events: int) -> None:
    others, clip = histories(12), 0.5
    hers = history("her", np.random.default_rng(7).integers(1, N_ITEMS + 1, events))
    loop = LOOP.replace(max_length=600, negatives=10)
    without, with_her = (sums_of(learner_of(theirs, loop), clip) for theirs in (others, [*others, hers]))
    moved = float((flat(with_her) - flat(without)).norm())
    assert 0.99 * clip < moved <= clip * (1 + 1e-4)
    touched = torch.cat([with_her.touched[name] - without.touched[name] for name in without.touched])
    assert float(touched[touched.isfinite()].norm()) <= 1 + 1e-4, "rows of the sample change for anybody"


def test_what_targets_compete_with_and_a_users_gradient_do_not_depend_on_other_users() -> None:
    [her, *others] = [
        history(f"u{u}", 1 + np.random.default_rng(u).permutation(N_ITEMS)[:8]) for u in range(9)
    ]
    found = []
    for theirs in ([her, *others[:3]], [her, *others[3:]]):
        learner = learner_of(theirs, LOOP.replace(negatives=10))
        drawn = learner.begin_step()["items.ids"]
        [gradients] = learner.gradients(np.arange(len(theirs)))
        rows, of_rows = gradients.tables["items.ids"]
        of_items = torch.zeros(N_ITEMS + 1, SHAPE.dim).index_add_(0, rows.rows[0], of_rows[0])
        found.append((drawn, of_items, *(each[0] for each in gradients.dense.values())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_the_sample_changes_with_every_step_and_covers_the_catalogue_evenly() -> None:
    learner = learner_of(histories(2), LOOP.replace(negatives=10))
    steps = torch.stack([learner.begin_step()["items.ids"] for _ in range(300)])
    assert (steps.sort(1).values.diff(dim=1) > 0).all(), "each item once"
    counts = torch.bincount(steps.flatten(), minlength=N_ITEMS + 1)
    assert counts[0] == 0
    assert (counts[1:] / 300 - 1 / 3).abs().max() < 0.12


def test_a_user_moves_the_counts_by_at_most_one_and_noise_is_on_every_item() -> None:
    items = learner_of(histories(40)).targets
    zero = SeededRandomness(0)
    exact = private_counts(items, N_ITEMS, 0.0, zero)
    for user in range(40):
        without = private_counts(np.delete(items, user, axis=0), N_ITEMS, 0.0, zero)
        assert np.linalg.norm(exact - without) == pytest.approx(1.0)
    noise = private_counts(items, N_ITEMS, 3.0, SeededRandomness(1)) - exact
    assert np.std(noise[noise > -exact]) == pytest.approx(3.0, rel=0.6)


def test_a_new_model_knows_what_is_popular() -> None:
    model, counts = model_of(), np.exp(np.random.default_rng(0).permutation(N_ITEMS) / 5.0)
    start_from(model, counts)
    [scores] = two_tower_scorer(model, 8)([history("u", np.array([3, 4]))], [0])
    assert np.corrcoef(scores, np.log(counts))[0, 1] > 0.5


@pytest.mark.parametrize("change", [{"dropout": 0.1}, {"id_dropout": 0.1}, {"profile": True}])
def test_models_that_cannot_be_trained_so_are_refused(change: dict[str, object]) -> None:
    shape = SHAPE.model_copy(update=change)
    with pytest.raises(InvalidConfig, match=next(iter(change))):
        TwoTowerLearner(TwoTower(shape, ITEMS), shape, histories(3), LOOP, 0)


def test_it_learns_where_users_are_many_enough_and_equal_draws_give_equal_weights() -> None:
    theirs = chains(600)
    loop = LOOP.replace(epochs=10, users_per_step=300, epsilon=50.0)
    recipe, planned = TwoTowerRecipe(shape=SHAPE, loop=loop), plan(loop, 600)
    model, _ = trained(recipe, planned, theirs, ITEMS, SeededRandomness(0))
    probes = [history(f"p{n}", np.array([n + 1])) for n in range(N_ITEMS)]
    scores = two_tower_scorer(model, 8)(probes, [0] * N_ITEMS)
    wanted = (np.arange(N_ITEMS) + 7) % N_ITEMS
    ranks = (scores > scores[np.arange(N_ITEMS), wanted][:, None]).sum(1)
    assert np.mean(ranks < 5) > 0.5, "at random: a sixth"

    short = Plan(loop.replace(epochs=1), 600, 1.0)
    one, again, other = (
        trained(recipe, short, theirs, ITEMS, SeededRandomness(seed))[0].state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["items.ids.weight"], other["items.ids.weight"])


def test_a_bundle_of_a_private_training_answers_and_says_what_it_cost(tmp_path: Path) -> None:
    theirs, lake = histories(200), tmp_path / "lake"
    write_sequences(tmp_path / "sequences" / "a.parquet", theirs, ITEMS)
    write_parquet(lake / "items" / "items.parquet", items_table(ITEMS))
    with day_writer(lake, EVENTS, "test") as writer:
        writer.write(events_table([Event("e", EventType.CLICK, "u", "i00", 1_000_000)]))
    config = PrivateTwoTower(
        sequences=tmp_path / "sequences",
        items=lake / "items" / "items.parquet",
        examples=tmp_path / "examples",
        out=tmp_path / "two_tower",
        shape=SHAPE,
        loop=LOOP,
    )
    config.out.mkdir()
    for stale in ("warm_start.json", "weights.safetensors"):
        (config.out / stale).write_text("{}")
    ledger = Ledger(tmp_path / "privacy.json", 10.0, 1e-4)
    report = main(config, ledger)
    assert 7.5 < float(report.privacy["epsilon"]) <= 8.0
    assert report.privacy["takes_as_public"] == "nothing"
    assert ledger.spent() == pytest.approx(report.spent) == pytest.approx(report.privacy["epsilon"])
    assert is_private(config.out)
    assert not [p.name for p in config.out.iterdir() if p.name in ("warm_start.json", "weights.safetensors")]

    ranker = tmp_path / "ranker"
    ranker.mkdir()
    (ranker / "ranker.onnx").write_bytes(b"of another test")
    (ranker / "summary.json").write_text(json.dumps({"config": {}, "metrics": {}, "seed": 0}))
    save_file({"ranker/in/none": np.zeros(1)}, ranker / "golden.safetensors")
    bundle = publish(
        PublishConfig(lake=lake, two_tower=config.out, ranker=ranker, bundles=tmp_path / "bundles")
    )
    assert bundle.manifest.privacy == {"two_tower": report.privacy}
    assert not bundle.manifest.repeats
    vectors = load_file(bundle.file("item_vectors.safetensors"))["vectors"]
    tower = UserTower(bundle.file(USER_TOWER), vectors)
    check_tower(bundle, tower)
    two = {"history": np.array([[4, 5]]), "types": np.array([[2, 2]]), "gaps": np.array([[3, 9]])}
    rows, _ = AnnIndex.load(bundle.file("index.faiss")).search(tower.vectors(**two), 5)
    assert len(np.unique(rows)) == 5
    nearest = load_file(bundle.file("item_to_item.safetensors"))["neighbours"][:, 0]
    cosines = vectors @ vectors.T - 2 * np.eye(N_ITEMS)
    np.testing.assert_allclose(cosines[np.arange(N_ITEMS), nearest], cosines.max(1), atol=1e-5)

    with pytest.raises(BudgetSpent, match="two-tower would bring"):
        main(config, ledger)
    assert len(ledger.entries()) == 1


def test_a_guarantee_relies_on_what_was_left_out_as_suspect(tmp_path: Path) -> None:
    assert trust_left_out(tmp_path) == []
    (tmp_path / TRUST).write_text('{"left_out": {"item_days": 1}, "item_weights": {}}')
    assert trust_left_out(tmp_path) == ["what RECSYS_TRUST left out"]
