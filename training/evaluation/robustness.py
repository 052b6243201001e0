"""`recsys evaluate robust`: what adversarial training and cleaning are worth, on synthetic rows with a known truth.

Attack: one network a way of training (plainly, under FGSM, under PGD), each judged clean and attacked. Dirt: robots
that click everything they are shown, many times a minute, are mixed into the training rows; a network is trained on the
dirty rows, on what cleaning has left of them, and on the rows without any robots.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from recsys.contracts.types import Head
from recsys.metrics import auc
from recsys.models.ranker import Ranker, RankerConfig, RankerLogits
from recsys.result import Goal, Result
from training.compression.ladder_input import LadderInput, synthetic_input
from training.compression.synthetic import LadderData
from training.ranker.adversarial import Attack, attacked
from training.ranker.clean import Cleaned, Cleaning, clean
from training.ranker.dataset import RankExamples
from training.ranker.loop import LoopConfig, fit, inputs_of, predict, ranking_loss
from training.seeding import seed_everything

SHAPE = RankerConfig(
    width=16, attention_heads=1, curve_width=1, shared_experts=1, expert_layers=(64, 32), cross_layers=1
)


@dataclass(frozen=True)
class RobustEvaluation:
    """`epsilon`: how far an embedding may be moved; rows of the embedding tables start with a spread of .05."""

    seed: int = 0
    rows: int = 60_000
    epochs: int = 3
    batch_size: int = 512
    epsilon: float = 0.05
    steps: int = 5  # of PGD
    robots: float = 0.15  # rows of theirs for each honest one

    @classmethod
    def quick(cls, seed: int) -> "RobustEvaluation":
        return cls(seed, rows=8_000, epochs=4, batch_size=128)


def main(config: RobustEvaluation, report: Callable[[str], None] = lambda line: None) -> Result:
    """Train six small networks and judge them on the same test rows.

    Args:
        report: called with one line a network.
    """
    torch.set_num_threads(1)
    data = LadderData(n_items=5_000, n_creators=1_000, n_users=2_000, rows=config.rows, seed=config.seed)
    given = synthetic_input(data, SHAPE, SHAPE)
    figures: dict[str, float] = {}

    fgsm, pgd = Attack(config.epsilon), Attack(config.epsilon, config.steps)
    for name, attack in (("plain", None), ("fgsm", fgsm), ("pgd", pgd)):
        network = _network(config, given, given.train, attack)
        figures[f"{name}_clean_auc"] = _auc(network, given.test)
        for against, how in (("fgsm", fgsm), ("pgd", pgd)):
            figures[f"{name}_attacked_{against}_auc"] = _attacked_auc(network, given.test, how)
        report(
            f"trained {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items() if k.startswith(name))
        )

    dirty = with_robots(given.train, config.robots, np.random.default_rng(config.seed))
    cleaned = clean(dirty, Cleaning(seed=config.seed))
    for name, rows in (("dirty", dirty), ("cleaned", cleaned.examples)):
        figures[f"{name}_auc"] = _auc(_network(config, given, rows, None), given.test)
        report(f"trained {name}: {figures[f'{name}_auc']:.4f}, {len(rows):,} rows")
    figures["without_robots_auc"] = figures["plain_clean_auc"]
    figures |= _removed(dirty, cleaned, int(given.train.users.max()))
    goals = {
        "fgsm_attacked_fgsm_auc": Goal(">", figures["plain_attacked_fgsm_auc"]),
        "pgd_attacked_pgd_auc": Goal(">", figures["plain_attacked_pgd_auc"]),
        "cleaned_auc": Goal(">=", figures["dirty_auc"]),
        "robots_removed": Goal(">=", 0.95),
        "people_removed": Goal("<=", 0.01),
    }
    return Result("evaluate robust", config.seed, figures, goals)


def with_robots(rows: RankExamples, share: float, rng: np.random.Generator) -> RankExamples:
    """Rows of new users mixed in by time: each is shown 400 random items within two minutes and clicks all of them.

    What they are shown is real (items and features of honest rows); only their answers are worthless.
    """
    robots = max(1, int(len(rows) * share / 400))
    chosen = rows.take(rng.integers(0, len(rows), robots * 400))
    who = np.repeat(np.arange(robots), 400)
    begun = rng.choice(rows.time_ms, robots)
    labels = np.zeros_like(chosen.labels)
    labels[:, tuple(Head).index(Head.CLICK)] = 1
    labels[:, tuple(Head).index(Head.DWELL)] = np.log1p(0.3)
    added = replace(
        chosen,
        users=int(rows.users.max()) + 1 + who,
        time_ms=begun[who] + rng.integers(0, 120_000, len(who)),
        labels=labels,
    )
    both = RankExamples(
        **{f.name: np.concatenate([getattr(rows, f.name), getattr(added, f.name)]) for f in fields(rows)}
    )
    return both.take(np.argsort(both.time_ms, kind="stable"))


def _network(
    config: RobustEvaluation, given: LadderInput, rows: RankExamples, attack: Attack | None
) -> Ranker:
    seed_everything(config.seed)
    network = Ranker(SHAPE, given.teacher_data)
    loop = LoopConfig(epochs=config.epochs, batch_size=config.batch_size, seed=config.seed)
    if attack is not None:
        loop = replace(loop, attack=attack.epsilon, attack_steps=attack.steps)
    fit(network, rows, given.validation, loop)
    return network


def _auc(network: Ranker, rows: RankExamples) -> float:
    return auc(rows.label(Head.CLICK).astype(np.int64), predict(network, rows)[Head.CLICK])


def _attacked_auc(network: Ranker, rows: RankExamples, attack: Attack) -> float:
    """The attacker knows every label and may move every embedding of each row."""
    found = []
    for start in range(0, len(rows), 2048):
        batch = rows.take(slice(start, start + 2048))
        *before, position = inputs_of(batch)
        inputs, labels = (*before, torch.zeros_like(position)), torch.from_numpy(batch.labels)

        def run(inputs: tuple[Tensor, ...] = inputs) -> RankerLogits:
            logits: RankerLogits = network(*inputs)
            return logits

        def loss(logits: RankerLogits, labels: Tensor = labels) -> Tensor:
            return ranking_loss(logits, labels, {Head.CLICK: 1.0})

        found.append(attacked(network, run, loss, attack).click)
    return auc(rows.label(Head.CLICK).astype(np.int64), torch.cat(found).numpy())


def _removed(dirty: RankExamples, cleaned: Cleaned, last_person: int) -> dict[str, float]:
    """Shares of the robots' and of people's rows that cleaning has left out, and rows by reason."""
    figures = {f"removed_{reason.replace(' ', '_')}": float(n) for reason, n in cleaned.removed.items()}
    for name, robots in (("robots", True), ("people", False)):
        before, after = (
            int(((rows.users > last_person) == robots).sum()) for rows in (dirty, cleaned.examples)
        )
        figures[f"{name}_removed"] = 1 - after / before
    return figures
