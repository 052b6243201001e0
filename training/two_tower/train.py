"""Train the two-tower: read top to bottom, or call `main(config)`.

With a validation period the model is first trained without it and stopped where it is best there; with `refit` it
is then trained again on everything for as many epochs. The same program runs in one process, under `torchrun` and
under Spark's `TorchDistributor` (docs/recall.md): each process takes its rows of every batch.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import MS_PER_DAY, Item
from recsys.metrics import hit_rate, ndcg
from recsys.models.two_tower import ItemTable, TwoTower, id_scale
from training.checkpoint import TrainingState
from training.optim import warmup_cosine
from training.seeding import seed_everything, seed_step
from training.two_tower.augment import augmenter
from training.two_tower.batches import Batch, BatchPlan, Targets, epoch_batches
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.data import TrainingData, counted, read_training_data, substitutes, wanted_type
from training.two_tower.distributed import from_first, processes, summed
from training.two_tower.losses import Loss, LossName, make_loss
from training.two_tower.prefetch import prefetched, timed
from training.two_tower.retrieval import next_item_ranks, two_tower_scorer
from training.two_tower.sequences import Profiles, keep_all
from training.two_tower.sharded_embedding import ShardedAdam, ShardedEmbedding, clip_gradients
from training.two_tower.warm_start import start_from


@dataclass(frozen=True)
class EpochReport:
    """One epoch. `loss`: mean cross-entropy a target; `validation`: empty without held-out events.

    targets_per_s: of the model's steps; loader_targets_per_s: that the loader's thread can make, by its processor
    time; waited_s: what the model waited for it.
    """

    epoch: int
    loss: float
    seconds: float
    targets_per_s: float
    loader_targets_per_s: float
    waited_s: float
    validation: dict[str, float]


@dataclass(frozen=True)
class TwoTowerResult:
    """The trained model (in evaluation mode), its item table, and how it came about."""

    model: TwoTower
    items: Sequence[Item]
    config: TwoTowerConfig
    epochs: Sequence[EpochReport]  # of the last phase
    profiles: Profiles
    validation: dict[str, float]  # of the best epoch before the refit; empty without validation
    newest_ms: int  # time of the newest event that was trained on


def main(config: TwoTowerConfig) -> TwoTowerResult:
    """Train, or go on from the checkpoints in `config.work` if they belong to the same configuration.

    Raises:
        InvalidData: sequences, item table or `config.start` are missing or unusable.
        InvalidConfig: a checkpoint in `config.work` or `config.start` is of another configuration, or sharded items
            do not go with the loss or the start.
    """
    if config.shard_items and config.loss is LossName.FULL:
        raise InvalidConfig("shard_items: the full softmax needs every item's vector; choose a sampled loss")
    if config.shard_items and config.start is not None:
        raise InvalidConfig("start: rows that are dealt out to processes begin anew; leave `shard_items`")
    if config.threads:
        torch.set_num_threads(config.threads)
    with processes() as (rank, world):
        return _train(config, rank, world)


def _train(config: TwoTowerConfig, rank: int, world: int) -> TwoTowerResult:
    """Find the number of epochs on what is held out, then train on everything."""
    data = read_training_data(config)
    if config.newer_than_ms >= data.newest_ms > 0:
        raise InvalidData(
            f"{config.sequences}: nothing is newer than {config.newer_than_ms} ms; build features"
        )
    if config.validation is Validation.NONE:
        model, reports = _fit(config, data, "refit", config.epochs, rank, world)
        return TwoTowerResult(model, data.items, config, reports, data.profiles, {}, data.newest_ms)
    model, reports = _fit(config, data, "fit", config.epochs, rank, world)
    best = max(reports, key=lambda report: report.validation["ndcg@10"])
    if config.refit:
        data = counted(data.items, data.files, data.profiles, keep_all)
        model, reports = _fit(config, data, "refit", best.epoch, rank, world)
    return TwoTowerResult(model, data.items, config, reports, data.profiles, best.validation, data.newest_ms)


def _fit(
    config: TwoTowerConfig, data: TrainingData, phase: str, epochs: int, rank: int, world: int
) -> tuple[TwoTower, list[EpochReport]]:
    """Train from random weights or `config.start`; the best epoch's where events are held out, else the last's."""
    seed_everything(config.seed)
    device = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device
    table = _sharded_ids(config, data) if config.shard_items else None
    model = TwoTower(config.shape, data.items, table).to("cpu" if device == "auto" else device)
    if config.start is not None:
        start_from(config.start, model, config.shape, data.items)
    average = _average(model, config.ema) if config.ema else None
    optimizer = _optimizer(model, config, table)
    state = TrainingState(model, average, optimizer)
    loss_of = make_loss(
        config.loss,
        data.counts,
        config.negatives,
        config.logq,
        config.popularity_adjustment,
    )
    step: nn.Module = _TwoTowerStep(model, loss_of, config)
    if world > 1:
        own = ["model.items.ids.shard"] if table is not None else []
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, own)  # type: ignore[no-untyped-call]
        step = DistributedDataParallel(step)
    change = augmenter(config.augmentation, neighbours=substitutes(config, data))
    targets = Targets(
        wanted=wanted_type(config),
        half_life_ms=config.half_life_days * MS_PER_DAY,
        newest_ms=data.newest_ms,
        newer_than_ms=config.newer_than_ms,
    )
    plan = BatchPlan(config.max_length, config.batch_tokens, config.windows, targets, data.profiles)

    path, identity = config.work / f"{phase}.safetensors", _identity(config, data, phase)
    state.restore(path, identity)
    at, saved = state.progress, time.monotonic()
    with Progress(disable=not config.progress or rank != 0) as bars:
        bar = bars.add_task(f"two-tower {phase}", total=epochs)
        while at.epoch < epochs and not _stale(at.reports, config.patience):
            model.train()
            batches = epoch_batches(data.files, data.cut, plan, config.seed, at.epoch, change)
            asked = time.monotonic()
            for index, ((batch, read), loading) in enumerate(prefetched(timed(batches))):
                started = time.monotonic()
                if index < at.batch:  # trained on before the run was interrupted
                    asked = started
                    continue
                done = at.epoch + read / data.files.users
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * warmup_cosine(
                        at.step, config.warmup_steps, done / epochs
                    )
                seed_step(config.seed, at.step)
                negatives = loss_of.draw()  # the same in every process
                seed_step(config.seed, at.step, rank)
                loss = step(batch.shard(rank, world), negatives) * (world / batch.n_targets)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if table is None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                else:
                    clip_gradients(list(model.parameters()), table, config.clip)
                optimizer.step()
                if average is not None:
                    average.update_parameters(model)
                at.step, at.batch = at.step + 1, index + 1
                at.targets += batch.n_targets
                at.loss += summed(loss) / world * batch.n_targets
                at.loader_seconds += loading
                at.waited_seconds += started - asked
                at.seconds += time.monotonic() - started
                bars.update(bar, completed=done)
                if from_first(time.monotonic() - saved > config.checkpoint_s):
                    state.save(path, identity, write=rank == 0)
                    saved = time.monotonic()
                asked = time.monotonic()
            _finish_epoch(state, data, config)
            state.save(path, identity, write=rank == 0)
    reports = [EpochReport(**report) for report in at.reports]
    if state.best:
        state.kept.load_state_dict(state.best)
    return _whole(state.kept, config, data).eval().cpu(), reports


def _sharded_ids(config: TwoTowerConfig, data: TrainingData) -> ShardedEmbedding:
    return ShardedEmbedding(1 + len(data.items), config.shape.dim, config.seed, id_scale(config.shape))


def _whole(model: TwoTower, config: TwoTowerConfig, data: TrainingData) -> TwoTower:
    """The model with all its rows in this process, which scoring and export need."""
    if not config.shard_items:
        return model
    whole = TwoTower(config.shape, data.items)
    whole.load_state_dict(model.state_dict())
    return whole


class _TwoTowerStep(nn.Module):
    """Forward pass and loss in one module, so that data-parallel wrapping sees every parameter's use."""

    def __init__(self, model: TwoTower, loss_of: Loss, config: TwoTowerConfig) -> None:
        super().__init__()
        self.model = model
        self._loss_of = loss_of
        self._tabled = config.loss is LossName.FULL
        self._bf16 = config.bf16

    def forward(self, batch: Batch, negatives: Tensor | None) -> Tensor:
        """The sum of the losses of the batch's targets. `negatives`: what the loss has drawn for this batch."""
        device = self.model.user.log_scale.device
        history, types, gaps, targets, profile = (torch.from_numpy(array).to(device) for array in batch)
        items = ItemTable(self.model.items) if self._tabled else self.model.items
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            users = self.model(history, types, gaps, profile, items)
        real = targets > 0
        return self._loss_of(users[real].float(), targets[real], items, negatives)


def _optimizer(
    model: nn.Module, config: TwoTowerConfig, table: ShardedEmbedding | None
) -> torch.optim.Optimizer | ShardedAdam:
    """AdamW; matrices decay, tables, norms and biases do not. The rows of a sharded table: SparseAdam."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    dense = [p for p in model.parameters() if table is None or p is not table.shard]
    matrices = [p for p in dense if p.ndim >= 2 and id(p) not in tables]
    others = [p for p in dense if p.ndim < 2 or id(p) in tables]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    return adam if table is None else ShardedAdam(adam, table, config.learning_rate)


def _average(model: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]


def _finish_epoch(state: TrainingState[TwoTower], data: TrainingData, config: TwoTowerConfig) -> None:
    """Report the epoch, validate, and remember the best weights."""
    at = state.progress
    scores: dict[str, float] = {}
    if data.held_out is not None:
        scorer = two_tower_scorer(_whole(state.kept, config, data), config.max_length, data.profiles)
        ranks = next_item_ranks(scorer, data.held_out)
        scores = {"hr@10": hit_rate(ranks, 10), "ndcg@10": ndcg(ranks, 10)}
    report = EpochReport(
        epoch=at.epoch + 1,
        loss=at.loss / at.targets,
        seconds=at.seconds,
        targets_per_s=at.targets / at.seconds,
        loader_targets_per_s=at.targets / max(at.loader_seconds, 1e-9),
        waited_s=at.waited_seconds,
        validation=scores,
    )
    at.reports.append(asdict(report))
    if scores and _best(at.reports) == len(at.reports) - 1:
        state.best = {name: t.detach().clone() for name, t in state.kept.state_dict().items()}
    at.epoch, at.batch, at.targets = at.epoch + 1, 0, 0
    at.loss = at.seconds = at.loader_seconds = at.waited_seconds = 0.0


def _best(reports: Sequence[dict[str, Any]]) -> int:
    """The first of the epochs with the highest validation NDCG@10."""
    return int(np.argmax([r["validation"].get("ndcg@10", 0.0) for r in reports]))


def _stale(reports: Sequence[dict[str, Any]], patience: int) -> bool:
    """No better validation for `patience` epochs."""
    return bool(reports and reports[-1]["validation"]) and len(reports) - 1 - _best(reports) >= patience


def _identity(config: TwoTowerConfig, data: TrainingData, phase: str) -> dict[str, Any]:
    """What a checkpoint must agree on with the run that goes on from it: settings and size of the data."""
    free = {"sequences", "items", "users", "work", "threads", "device", "checkpoint_s", "progress"}
    size = {"users": data.files.users, "n_items": len(data.items), "events": int(data.counts.sum())}
    return {"phase": phase, **size, **config.model_dump(mode="json", exclude=free)}


if __name__ == "__main__":  # torchrun --nproc-per-node 2 -m training.two_tower.train config.json
    main(TwoTowerConfig.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
