"""`recsys evaluate robust`: what adversarial training and cleaning are worth, on synthetic rows with a known truth.

Attack: one network per way of training (plain, FGSM, PGD), each judged clean and attacked. Bots: users who click all
they are shown, many times a minute, are mixed into the training rows; one network is trained on these rows, one on what
cleaning has left of them, one without any bots.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsys.contracts.types import Head
from recsys.metrics import auc
from recsys.models.ranker import Ranker, RankerConfig, RankerLogits
from recsys.result import Goal, Result
from training.compression.ladder_input import LadderInput, synthetic_input
from training.compression.synthetic import LadderData
from training.config import Config
from training.ranker.adversarial import Attack, attacked
from training.ranker.clean import Cleaned, Cleaning, clean
from training.ranker.dataset import RankExamples
from training.ranker.loop import LoopConfig, fit, inputs_of, predict, ranking_loss
from training.seeding import seed_everything

SHAPE = RankerConfig(
    width=16, attention_heads=1, curve_width=1, shared_experts=1, expert_layers=(64, 32), cross_layers=1
)


class RobustEvaluation(Config):
    """Size of the data, the attack and the bots."""

    seed: int = Field(0, ge=0, description="Of the rows, the bots and the training.")
    rows: int = Field(60_000, description="Synthetic impressions.")
    epochs: int = Field(3, description="Of each network.")
    batch_size: int = Field(512, description="Rows per step.")
    epsilon: float = Field(
        0.05, ge=0, description="How far an embedding may be moved; embeddings start with a spread of .05."
    )
    steps: int = Field(5, description="Of PGD.")
    bots: float = Field(0.15, description="Rows of bots per honest one.")

    @classmethod
    def quick(cls, seed: int) -> Self:
        return cls(seed=seed, rows=8_000, epochs=4, batch_size=128)


def main(config: RobustEvaluation, report: Callable[[str], None] = lambda line: None) -> Result:
    """Train six small networks and judge them on the same test rows.

    Args:
        report: receives one line per network.
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

    dirty = with_bots(given.train, config.bots, np.random.default_rng(config.seed))
    cleaned = clean(dirty, Cleaning(seed=config.seed))
    for name, rows in (("dirty", dirty), ("cleaned", cleaned.examples)):
        figures[f"{name}_auc"] = _auc(_network(config, given, rows, None), given.test)
        report(f"trained {name}: {figures[f'{name}_auc']:.4f}, {len(rows):,} rows")
    figures["without_bots_auc"] = figures["plain_clean_auc"]
    figures |= _removed(dirty, cleaned, int(given.train.users.max()))
    goals = {
        "fgsm_attacked_fgsm_auc": Goal(">", figures["plain_attacked_fgsm_auc"]),
        "pgd_attacked_pgd_auc": Goal(">", figures["plain_attacked_pgd_auc"]),
        "cleaned_auc": Goal(">=", figures["dirty_auc"]),
        "bots_removed": Goal(">=", 0.95),
        "people_removed": Goal("<=", 0.01),
    }
    return Result("evaluate robust", config.seed, figures, goals)


def with_bots(rows: RankExamples, share: float, rng: np.random.Generator) -> RankExamples:
    """Mix in new users by time: each is shown 400 random honest rows within two minutes and clicks all of them."""
    bots = max(1, int(len(rows) * share / 400))
    chosen = rows.take(rng.integers(0, len(rows), bots * 400))
    who = np.repeat(np.arange(bots), 400)
    begun = rng.choice(rows.time_ms, bots)
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
        loop = loop.replace(attack=attack.epsilon, attack_steps=attack.steps)
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
    """Shares of the bots' and of people's rows that cleaning has removed, and rows by reason."""
    figures = {f"removed_{reason.replace(' ', '_')}": float(n) for reason, n in cleaned.removed.items()}
    for name, bots in (("bots", True), ("people", False)):
        before, after = (
            int(((rows.users > last_person) == bots).sum()) for rows in (dirty, cleaned.examples)
        )
        figures[f"{name}_removed"] = 1 - after / before
    return figures
