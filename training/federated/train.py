"""Train the shared item vectors in rounds over simulated clients: read top to bottom, or call `main(config)`."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.contracts.errors import InvalidConfig, InvalidData, Unavailable
from recsys.contracts.types import Item
from recsys.files import staged_file
from recsys.items.item_table import read_items
from training.federated.adam import SphereAdam
from training.federated.config import FederatedConfig
from training.federated.population import Population
from training.federated.privacy import delta_of, epsilon, spend_of
from training.federated.rounds import Simulation, apply
from training.privacy.accounting import UNIT, check_delta
from training.privacy.ledger import Ledger
from training.two_tower.sequences import SequenceFiles

CHECKPOINT = "federated.safetensors"
_ARRAYS = [field.name for field in fields(SphereAdam)]
_SUSPICION = "suspicion"
_PATIENCE = 20  # rounds without a group that counts
OnRound = Callable[[int, float], None]  # rounds done, and the clients' mean loss before the round


@dataclass(frozen=True)
class RoundReport:
    """loss: mean over the clients of the round, before it."""

    round: int
    loss: float
    clients: int
    groups: int
    left_out: int
    abandoned: int


@dataclass(frozen=True)
class FederatedResult:
    """vectors: (n_items, d), of length 1. seen_by: (n_items,) clients who have the item, counted by the simulation;
    zeros where updates carry noise, as these counts would carry none. privacy: of the vectors, ε and δ; empty without
    noise."""

    vectors: NDArray[np.float32]
    seen_by: NDArray[np.int64]
    items: Sequence[Item]
    config: FederatedConfig
    rounds: Sequence[RoundReport]
    privacy: Mapping[str, float | str]


def main(
    config: FederatedConfig, progress: OnRound = lambda done, loss: None, ledger: Ledger | None = None
) -> FederatedResult:
    """Train, or continue from the checkpoint in `config.work` if it belongs to the same configuration.

    Args:
        ledger: pays for noise, once for a training that is interrupted: nobody sees a round before the last one.

    Raises:
        BudgetSpent: the ledger has not enough left.
        InvalidData: sequences or item table are missing or unusable, or there are fewer clients than a group needs.
        InvalidConfig: the checkpoint is of another configuration, or the defence leaves out everybody.
        Unavailable: every group of `_PATIENCE` rounds was abandoned.
    """
    items = read_items(config.items)
    population = Population(list(SequenceFiles(config.sequences, items).read()))
    expected = config.cohorts.rate * len(population)
    if expected < config.cohorts.group:
        raise InvalidData(
            f"{len(population)} clients with a history, {expected:.0f} per round: fewer than a group of"
            f" {config.cohorts.group}; raise cohorts.rate, lower cohorts.group, or import more data"
        )
    privacy = _privacy(config, len(population))
    if config.noise and ledger and not (config.work / CHECKPOINT).exists():
        check_delta(ledger.delta, len(population))
        ledger.spend("item vectors, federated", [spend_of(config)])
    model, reports = _fit(config, population, len(items), progress)
    seen_by = population.seen_by(len(items)) if not config.noise else np.zeros(len(items), np.int64)
    return FederatedResult(model.vectors, seen_by, items, config, reports, privacy)


def _privacy(config: FederatedConfig, clients: int) -> dict[str, float | str]:
    if not config.noise:
        return {}
    spent = {"epsilon": epsilon(config, clients), "delta": delta_of(clients)}
    return {"unit": UNIT, **spent, "takes_as_public": "the number of clients"}


def _fit(
    config: FederatedConfig, population: Population, n_items: int, progress: OnRound
) -> tuple[SphereAdam, list[RoundReport]]:
    path, identity = config.work / CHECKPOINT, _identity(config, population, n_items)
    simulation, saved = Simulation(config, population), time.monotonic()
    restored = _restored(path, identity, simulation)
    model, reports = restored or (SphereAdam.new(config.seed, n_items, config.shape.dim), [])
    for number in range(len(reports), config.rounds):
        done = simulation.round(number, model)
        apply(model, config, number, done.update)
        reports.append(
            RoundReport(number + 1, done.loss, done.clients, done.groups, done.left_out, done.abandoned)
        )
        progress(number + 1, done.loss)
        _check_progress(reports[-_PATIENCE:], min(_PATIENCE, config.rounds))
        if time.monotonic() - saved > config.checkpoint_s or number + 1 == config.rounds:
            _save(path, identity, model, simulation, reports)
            saved = time.monotonic()
    return model, reports


def _check_progress(last: Sequence[RoundReport], patience: int) -> None:
    if len(last) < patience or any(report.groups for report in last):
        return
    if any(report.left_out for report in last):
        raise InvalidConfig(
            f"the defence left out every group of {patience} rounds: either honest updates are alike in this data,"
            " then raise defence.longest, or set defence=null; or every group has an attacker, then raise cohorts.rate"
            " or lower cohorts.group"
        )
    raise Unavailable(
        f"every group of {patience} rounds was abandoned; lower cohorts.group or dropouts, or raise cohorts.rate"
    )


def _identity(config: FederatedConfig, population: Population, n_items: int) -> dict[str, Any]:
    """What a checkpoint must share with the run that continues from it."""
    free = {"sequences", "items", "work", "masked", "checkpoint_s"}
    return {
        "clients": len(population),
        "events": population.events,
        "n_items": n_items,
        **config.model_dump(mode="json", exclude=free),
    }


def _save(
    path: Path,
    identity: dict[str, Any],
    model: SphereAdam,
    simulation: Simulation,
    reports: Sequence[RoundReport],
) -> None:
    header = {
        "identity": json.dumps(identity, sort_keys=True),
        "reports": json.dumps([asdict(report) for report in reports]),
    }
    arrays = {name: np.ascontiguousarray(getattr(model, name)) for name in _ARRAYS}
    if simulation.traces:
        arrays[_SUSPICION] = simulation.suspicion.chances
    with staged_file(path, fsync=True) as temporary:
        save_file(arrays, temporary, metadata=header)


def _restored(
    path: Path, identity: dict[str, Any], simulation: Simulation
) -> tuple[SphereAdam, list[RoundReport]] | None:
    """Model and reports so far; the simulation learns again what the server knew of its clients."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata()
            if header["identity"] != json.dumps(identity, sort_keys=True):
                raise InvalidConfig(
                    f"{path} is of another configuration; discard it with `--fresh`, or choose another folder"
                )
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
            if simulation.traces:
                simulation.suspicion.chances = file.get_tensor(_SUSPICION)
        reports = [RoundReport(**report) for report in json.loads(header["reports"])]
        return SphereAdam(**arrays), reports
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidData(f"{path}: not a checkpoint ({error}); delete it to restart") from error
