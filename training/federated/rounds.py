"""One round of federated training: what the clients of a cohort send, and what the server makes of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from training.federated.adam import SphereAdam
from training.federated.config import FederatedRecipe
from training.federated.gradient import drawn_items, item_gradient
from training.federated.population import Population, cohort
from training.federated.quantize import LEVELS, ROUNDED, clipped, dequantized, from_words, quantized, to_words
from training.federated.robust import trusted_groups
from training.federated.secure_client import SumPlan
from training.federated.secure_round import Step, secure_sum
from training.federated.streams import Stream
from training.federated.subspace import directions_of
from training.federated.suspicion import Suspicion
from training.federated.tower import PooledTower
from training.optim import warmup_cosine
from training.privacy.randomness import Randomness, SecureRandomness, SeededRandomness

_CLIENTS_AT_A_TIME = 256  # of a simulation: their updates are in memory together

# clients' numbers and their honest updates (n, m) int8 → what they send; attackers of an evaluation
Sent = Callable[[NDArray[np.int64], NDArray[np.int8]], NDArray[np.integer]]


@dataclass(frozen=True)
class GroupSum:
    """What the server learns of a group: the sum (m,) of the updates of `clients`, their numbers."""

    total: NDArray[np.int64]
    clients: NDArray[np.int64]


@dataclass(frozen=True)
class RoundUpdate:
    """What the server tells every device: the mean update (n_items · r,) int8, in units of `step`."""

    coefficients: NDArray[np.int8]
    step: float


@dataclass(frozen=True)
class Round:
    """clients, groups: whose updates count. left_out: groups that the defence has left out. abandoned: groups with too
    many dropouts, or whose sum failed."""

    update: RoundUpdate
    loss: float
    clients: int
    groups: int
    left_out: int
    abandoned: int


class Simulation:
    """All clients and the server in one process. suspicion: what the server has learnt of its clients so far."""

    def __init__(
        self,
        config: FederatedRecipe,
        population: Population,
        sent: Sent | None = None,
        is_repeatable: bool = False,
    ) -> None:
        """is_repeatable: noise, and with noise the cohorts, follow from the seed, too: for evaluations and tests."""
        self._config = config
        self._population = population
        self._sent = sent or (lambda clients, updates: updates)
        self._is_repeatable = is_repeatable or not config.noise
        seeded = SeededRandomness(Stream.NOISE.rng(config.seed))
        self._randomness: Randomness = seeded if is_repeatable else SecureRandomness()
        self._tower = PooledTower(config.shape)
        self.suspicion = Suspicion.new(len(population), config.defence.attackers if config.defence else 0.0)

    @property
    def traces(self) -> bool:
        """Whether it learns who spoils sums."""
        return self._config.defence is not None and self._config.defence.attackers > 0

    def round(self, number: int, model: SphereAdam) -> Round:
        """A round without a group that counts changes nothing but momentum; with noise, it publishes noise."""
        config, rng = self._config, self._rng(number)
        clients = cohort(len(self._population), config.cohorts.rate, rng)
        sent, losses = self._updates(clients, number, model, rng)
        groups = self.suspicion.dealt(clients, config.cohorts.group)
        found = [
            self._sum(f"{number}/{at}", clients[group], sent[group], rng) for at, group in enumerate(groups)
        ]
        sums = [group for group in found if group is not None]
        totals = np.array([group.total for group in sums]).reshape(len(sums), sent.shape[1])
        totals = dequantized(totals, config.clip)
        sizes = np.array([len(group.clients) for group in sums], np.int64)
        trusted = trusted_groups(totals, sizes, config.clip, config.defence)
        for group, is_trusted in zip(sums, trusted.tolist(), strict=True):
            self._note(group.clients, spoilt=not is_trusted)
        mean, counted = totals[trusted].sum(0), int(sizes[trusted].sum())
        if config.noise:
            mean += config.noise * ROUNDED * config.clip * self._randomness.normal(len(mean))
            mean /= config.cohorts.rate * len(self._population)  # the number that took part stays private
        else:
            mean /= max(counted, 1)
        return Round(
            _update(mean, rng),
            float(losses.mean()) if len(losses) else float("nan"),
            counted,
            int(trusted.sum()),
            len(sums) - int(trusted.sum()),
            len(groups) - len(sums),
        )

    def _rng(self, number: int) -> np.random.Generator:
        """Privacy accounting assumes that nobody knows who is in a cohort: with noise a round draws from the operating
        system's randomness, and nothing keeps the generator."""
        return Stream.ROUND.rng(self._config.seed, number) if self._is_repeatable else np.random.default_rng()

    def _updates(
        self, clients: NDArray[np.int64], number: int, model: SphereAdam, rng: np.random.Generator
    ) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
        """What each client would send without masks, (C, m), and its loss (C,)."""
        config, drawn = self._config, self._config.cohorts
        basis = directions_of(config.seed, number, config.shape.dim, config.rank).basis
        table = torch.from_numpy(np.pad(model.vectors, ((1, 0), (0, 0))))
        sent: list[NDArray[np.integer]] = []
        losses = [np.zeros(0, np.float32)]
        for start in range(0, len(clients), _CLIENTS_AT_A_TIME):
            part = clients[start : start + _CLIENTS_AT_A_TIME]
            windows = self._population.windows(part, drawn.length, drawn.targets, rng)
            negatives = drawn_items(len(part), len(model.vectors), drawn.negatives, rng)
            gradient = item_gradient(self._tower, table, windows, negatives)
            own = clipped(gradient.projected(basis), config.clip)
            sent.append(self._sent(part, quantized(own, config.clip, rng)))
            losses.append(gradient.loss.numpy())
        nobody = np.zeros((0, len(model.vectors) * config.rank), np.int8)
        return np.concatenate([nobody, *sent]), np.concatenate(losses)

    def _sum(
        self, name: str, clients: NDArray[np.int64], sent: NDArray[np.integer], rng: np.random.Generator
    ) -> GroupSum | None:
        """The secure sum of one group; None: too many of it have dropped out, or one has sent what ends the sum."""
        arrives, plan = rng.random(len(sent)) >= self._config.dropouts, SumPlan(name, *sent.shape)
        counted = clients[arrives]
        if len(counted) < plan.threshold:
            return None
        if self._config.masked:
            lost = {int(n) + 1: Step.VECTOR for n in np.flatnonzero(~arrives)}
            try:
                return GroupSum(secure_sum(list(sent), plan, self._config.cohorts.group, lost).total, counted)
            except InvalidData:  # somebody sent what is no message of the protocol
                self._note(clients, spoilt=True)
                return None
        return GroupSum(from_words(to_words(sent[arrives].sum(0, dtype=np.int64))), counted)

    def _note(self, clients: NDArray[np.int64], spoilt: bool) -> None:
        if self.traces:
            self.suspicion.note(clients, spoilt)


def apply(model: SphereAdam, config: FederatedRecipe, number: int, update: RoundUpdate) -> None:
    """The model after round `number`: the server's step, and that of each device that follows the rounds."""
    directions = directions_of(config.seed, number, config.shape.dim, config.rank)
    coefficients = update.coefficients.reshape(-1, config.rank) * np.float32(update.step)
    share = warmup_cosine(number, round(config.warmup * config.rounds), number / config.rounds)
    model.step(coefficients, directions, config.learning_rate * share)


def _update(mean: NDArray[np.float64], rng: np.random.Generator) -> RoundUpdate:
    step = float(np.float32(np.abs(mean).max() / LEVELS)) or 1.0
    rounded = np.floor(mean / step + rng.random(mean.shape))
    return RoundUpdate(np.clip(rounded, -LEVELS, LEVELS).astype(np.int8), step)
