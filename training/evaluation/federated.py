"""`recsys evaluate federated`: federated training against the same model trained centrally, on MovieLens-1M.

The published protocol of `recsys evaluate recall --protocol ml-1m`: each user's last item among the full catalogue. One
client per user. Reported are quality, payload, secure sums with dropouts, attackers with and without the defence, and
quality against ε.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from recsys.metrics import hits, ndcgs
from recsys.result import Goal, Result
from training.bootstrap import Weights, bootstrap
from training.config import Config
from training.evaluation.baselines import TrainingHistories, popularity
from training.evaluation.protocols import Split, leave_one_out
from training.evaluation.sources import SEQUENCES, read_sequences
from training.federated.adam import SphereAdam
from training.federated.attacks import Attack, attacked
from training.federated.central import fit_central
from training.federated.config import FederatedRecipe
from training.federated.payload import Payload, update_bytes
from training.federated.population import Population
from training.federated.privacy import delta_of, noise_for
from training.federated.quantize import LEVELS
from training.federated.rounds import Sent, Simulation, apply
from training.federated.scorer import pooled_scorer
from training.federated.secure_client import SumPlan
from training.federated.secure_round import Step, secure_sum
from training.federated.streams import Stream
from training.two_tower.retrieval import Scorer, next_item_ranks

OnReport = Callable[[str], None]
QUARTERS = 4  # of the rounds, after which quality is measured


class FederatedEvaluation(Config):
    """One evaluation."""

    data: Path = Field(description="Folder with `sequences_stable.txt`.")
    seed: int = Field(0, ge=0, description="The same seed and data give the same figures.")
    recipe: FederatedRecipe = Field(FederatedRecipe(), description="How federated training runs.")
    central_steps: int = Field(300, ge=1, description="Steps of central training.")
    central_users: int = Field(512, ge=1, description="Users per step.")
    central_rate: float = Field(0.05, gt=0, description="Peak learning rate of central training.")
    curves: bool = Field(True, description="Also measure attackers and ε.")
    attack_rounds: int = Field(1_024, ge=1, description="Rounds of the trainings with attackers.")
    noise_rounds: int = Field(384, ge=1, description="Rounds of the trainings with noise.")
    epsilons: tuple[float, ...] = Field((2.0, 8.0, 32.0), description="Of the curve.")
    attackers: float = Field(0.05, gt=0, lt=0.5, description="Share of the clients that attack.")
    sums: int = Field(20, ge=1, description="Secure sums that are compared with plain ones.")

    def with_rounds(self, rounds: int) -> Self:
        return self.replace(recipe=self.recipe.replace(rounds=rounds))

    def quick(self) -> Self:
        """A check that everything runs; the figures mean nothing."""
        return self.with_rounds(16).replace(
            central_steps=8, attack_rounds=8, noise_rounds=8, epsilons=(8.0,), sums=2
        )


@dataclass(frozen=True)
class Judged:
    """A model's hits among ten and NDCG@10, (cases,) each."""

    hits: NDArray[np.float64]
    ndcgs: NDArray[np.float64]

    @property
    def hr10(self) -> float:
        return float(self.hits.mean())


@dataclass(frozen=True)
class Trained:
    """A federated model after each quarter of its rounds. update_bytes: mean of its updates, as they are sent."""

    quarters: Sequence[Judged]
    update_bytes: float

    @property
    def hr10(self) -> float:
        return self.quarters[-1].hr10


class Bench:
    """Trains and judges on one split."""

    def __init__(self, config: FederatedEvaluation, split: Split, report: OnReport) -> None:
        self.config = config
        self.split = split
        self.population = Population(split.refit)
        self.n_items = len(split.items)
        self._report = report

    def federated(
        self, name: str, recipe: FederatedRecipe, sent: Sent | None = None, parts: int = 1
    ) -> Trained:
        """parts: of the rounds, after each of which the model is judged."""
        model = SphereAdam.new(recipe.seed, self.n_items, recipe.shape.dim)
        simulation = Simulation(recipe, self.population, sent, is_repeatable=True)
        judged, sizes = [], []
        ends = [recipe.rounds * part // parts for part in range(1, parts + 1)]
        for number in range(recipe.rounds):
            update = simulation.round(number, model).update
            apply(model, recipe, number, update)
            sizes.append(update_bytes(update))
            if number + 1 in ends:
                judged.append(self.judged(f"{name}, round {number + 1}", self._scorer(model)))
        return Trained(judged, float(np.mean(sizes)))

    def central(self, name: str, steps: int, users: int, rate: float) -> Judged:
        model = fit_central(self.config.recipe, self.population, self.n_items, steps, users, rate)
        return self.judged(name, self._scorer(model))

    def judged(self, name: str, scorer: Scorer) -> Judged:
        ranks = next_item_ranks(scorer, self.split.test, self.n_items)[:, None]
        judged = Judged(hits(ranks, 10), ndcgs(ranks, 10))
        self._report(f"{name}: HR@10 {judged.hr10:.4f}")
        return judged

    def _scorer(self, model: SphereAdam) -> Scorer:
        return pooled_scorer(model.vectors, self.config.recipe.shape, self.config.recipe.cohorts.length)


def main(config: FederatedEvaluation, report: OnReport = lambda line: None) -> Result:
    """Train, judge and count bytes.

    Args:
        report: receives a line per judged model.

    Raises:
        InvalidData: the data cannot be read.
    """
    torch.set_num_threads(1)
    bench = Bench(config, leave_one_out(read_sequences(config.data / SEQUENCES)), report)
    recipe = config.recipe.replace(seed=config.seed)
    popular = popularity(TrainingHistories(bench.split.refit, bench.n_items))
    central = bench.central("central", config.central_steps, config.central_users, config.central_rate)
    trained = bench.federated("federated", recipe, parts=QUARTERS)
    models = {
        "popularity": bench.judged("popularity", popular),
        "central": central,
        "federated": trained.quarters[-1],
    }
    figures = {"cases": float(len(bench.split.test)), "clients": float(len(bench.population))}
    for name, judged in models.items():
        figures |= {f"{name}_hr10": judged.hr10, f"{name}_ndcg10": float(judged.ndcgs.mean())}
    figures |= ratio_of(trained.quarters[-1], central) | _payload(bench, recipe, trained)
    figures["masked_sums_equal"] = equal_sums(config, bench.n_items * recipe.rank)
    goals = {
        "federated_over_central_hr10": Goal(">=", 0.97),
        "payload_share": Goal("<=", 0.03),
        "masked_sums_equal": Goal(">=", 1.0),
    }
    if config.curves:
        figures |= _attacks(bench, recipe.replace(rounds=config.attack_rounds))
        figures |= _epsilons(bench, recipe.replace(rounds=config.noise_rounds))
        goals |= {"flip_cost": Goal("<=", 0.03), "flip_cost_undefended": Goal(">", figures["flip_cost"])}
    return Result("evaluate federated", config.seed, figures, goals)


def ratio_of(ours: Judged, central: Judged) -> dict[str, float]:
    """The ratio of the hit rates, with its 95 % interval by bootstrap over users."""

    def figures(drawn: Weights) -> list[float]:
        return [float(ours.hits @ drawn) / float(central.hits @ drawn)]

    name, found = "federated_over_central_hr10", bootstrap(figures, len(ours.hits), rounds=1_000)[0]
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _payload(bench: Bench, recipe: FederatedRecipe, trained: Trained) -> dict[str, float]:
    """Bytes per round and in all; and what federated averaging reaches with as many passes over each direction."""
    payload, figures = Payload(recipe, bench.n_items, trained.update_bytes), {}
    for part, judged in enumerate(trained.quarters[:-1], start=1):
        figures[f"federated_hr10_after_{100 * part // QUARTERS}_percent"] = judged.hr10
    steps = max(1, recipe.rounds * recipe.rank // recipe.shape.dim)
    users = round(recipe.cohorts.rate * len(bench.population))
    averaged = bench.central("federated averaging", steps, users, recipe.learning_rate)
    return figures | {
        "payload_up_bytes": payload.up,
        "payload_down_bytes": payload.down,
        "fedavg_up_or_down_bytes": payload.whole,
        "payload_share": payload.share,
        "payload_total_mb": payload.total_mb,
        "fedavg_rounds": float(steps),
        "fedavg_hr10": averaged.hr10,
        "fedavg_total_mb": steps * recipe.cohorts.rate * 2 * payload.whole / 1e6,
    }


def equal_sums(config: FederatedEvaluation, length: int) -> float:
    """Share of random secure sums, of a group each with 30 % dropouts at random steps, that equal the plain ones."""
    rng = Stream.SUMS.rng(config.seed)
    clients = config.recipe.cohorts.group
    equal = 0
    for number in range(config.sums):
        vectors = rng.integers(-LEVELS, LEVELS + 1, (clients, length)).astype(np.int8)
        lost = rng.permutation(clients)[: int(0.3 * clients)] + 1
        dropouts = {int(n): Step(int(rng.integers(len(Step)))) for n in lost}
        found = secure_sum(list(vectors), SumPlan(f"sum {number}", clients, length), clients, dropouts)
        counted = np.array(sorted(found.counted)) - 1
        equal += bool((found.total == vectors[counted].sum(0, dtype=np.int64)).all())
    return equal / config.sums


def _attacks(bench: Bench, recipe: FederatedRecipe) -> dict[str, float]:
    """What attackers cost, as a share of the hit rate without them."""
    share, honest = bench.config.attackers, bench.federated("without attackers", recipe)
    figures = {"honest_hr10": honest.hr10}
    for attack in Attack:
        for suffix, defence in (("", recipe.defence), ("_undefended", None)):
            if attack is Attack.HIDDEN and defence is None:
                continue  # the defence does not see it
            sent = sent_by(attack, share, len(bench.population), recipe.seed)
            name = f"{attack} by {share:.0%}{suffix}"
            judged = bench.federated(name, recipe.replace(defence=defence), sent)
            figures[f"{attack}_cost{suffix}"] = 1 - judged.hr10 / honest.hr10
    return figures


def sent_by(attack: Attack, share: float, clients: int, seed: int) -> Sent:
    """What a population sends of which that share attacks."""
    rng = Stream.ATTACKERS.rng(seed)
    attackers = rng.random(clients) < share

    def sent(own: NDArray[np.int64], updates: NDArray[np.int8]) -> NDArray[np.integer]:
        bad, words = attackers[own], updates.astype(np.int16)
        words[bad] = attacked(updates[bad], attack, updates[~bad].mean(0))
        return words

    return sent


def _epsilons(bench: Bench, recipe: FederatedRecipe) -> dict[str, float]:
    """Quality under user-level differential privacy."""
    clients = len(bench.population)
    open_to_all = recipe.replace(defence=None)
    without = bench.federated("without noise", open_to_all)
    figures = {"delta": delta_of(clients), "no_noise_hr10": without.hr10}
    for epsilon in bench.config.epsilons:
        noise = noise_for(epsilon, open_to_all, clients)
        trained = bench.federated(f"epsilon {epsilon:g}", open_to_all.replace(noise=noise))
        figures |= {f"epsilon{epsilon:g}_noise": noise, f"epsilon{epsilon:g}_hr10": trained.hr10}
    return figures
