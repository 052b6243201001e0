"""Train the two-tower: read top to bottom, or call `main(config)`.

With a validation period, the model is first trained without it and stopped at its best epoch; with `refit` it is then
trained on everything for as many epochs. The same program runs in one process, under `torchrun` and under Spark's
`TorchDistributor` (docs/recall.md): each process takes its rows of every batch.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import MS_PER_DAY
from recsys.metrics import hit_rate, ndcg
from recsys.models.two_tower import ItemTable, TwoTower, id_scale
from recsys.recall.item_vectors import LinearPart
from training.checkpoint import TrainingState
from training.choices import Augmentation
from training.optim import warmup_cosine
from training.seeding import seed_everything, seed_step
from training.two_tower.augment import augmenter
from training.two_tower.batches import Batch, BatchPlan, Targets, epoch_batches
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.data import TrainingData, everything, read_training_data, substitutes, wanted_type
from training.two_tower.distributed import from_first, processes, summed, this_process
from training.two_tower.linear import METRICS, Weighed, has_linear_part, linear_part, with_weight
from training.two_tower.losses import Loss, LossName, make_loss
from training.two_tower.optimizer import clip_gradients, make_optimizer, running_average
from training.two_tower.prefetch import Prefetcher
from training.two_tower.result import EpochReport, TwoTowerResult
from training.two_tower.retrieval import Cases, next_item_ranks, two_tower_scorer
from training.two_tower.sharded_embedding import ShardedEmbedding
from training.two_tower.warm_start import warm_start

LINEAR = "linear part"
# phase ("fit", "refit" or `LINEAR`), epochs done, epochs in total
OnProgress = Callable[[str, float, int], None]


def _ignore(*_: object) -> None: ...


AfterEpoch = Callable[[Sequence[EpochReport]], None]


def main(
    config: TwoTowerConfig,
    progress: OnProgress = _ignore,
    after_epoch: AfterEpoch = _ignore,
) -> TwoTowerResult:
    """Train, or continue from the checkpoints in `config.work` if they belong to the same configuration.

    Args:
        progress: called after each step, in the first process.
        after_epoch: called with the phase's epochs so far; an error that it raises ends the run, which can be resumed.

    Raises:
        InvalidData: sequences, item table or `config.start` are missing or unusable.
        InvalidConfig: a checkpoint in `config.work` or `config.start` is of another configuration, sharded items do
            not go with the loss or the warm start, or shuffled histories with what goes by their times.
    """
    if config.shard_items and config.loss is LossName.FULL:
        raise InvalidConfig("shard_items: the full softmax needs every item's vector; choose a sampled loss")
    if config.shard_items and config.start is not None:
        raise InvalidConfig("start: a sharded item table cannot be warm-started; leave `shard_items`")
    narrowed = config.wanted or config.half_life_days or config.newer_than_ms
    if config.augmentation is Augmentation.SHUFFLE and narrowed:
        raise InvalidConfig(
            "augmentation: a shuffled history has no times, which `wanted`, `half_life_days` and nights go by;"
            " choose another augmentation"
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    with processes():
        return _train(config, progress, after_epoch)


def _train(config: TwoTowerConfig, progress: OnProgress, after_epoch: AfterEpoch) -> TwoTowerResult:
    """Find the number of epochs on held-out events, then train on everything."""
    data = read_training_data(config)
    if config.newer_than_ms >= data.newest_ms > 0:
        raise InvalidData(
            f"{config.sequences}: nothing is newer than {config.newer_than_ms} ms; build features"
        )
    if data.held_out is None:
        model, reports = _fit(config, data, "refit", config.epochs, progress, after_epoch)
        validation = {} if config.validation is Validation.NONE else dict.fromkeys(METRICS, math.nan)
        return _result(config, data, model, reports, validation, _linear(config, data, progress))
    model, reports = _fit(config, data, "fit", config.epochs, progress, after_epoch)
    best = max(reports, key=lambda report: report.validation["ndcg@10"])
    config, linear, metrics = _weighed(config, data, model, data.held_out, progress)
    if config.refit:
        data = everything(data)
        model, reports = _fit(config, data, "refit", best.epoch, progress, after_epoch)
        linear = _linear(config, data, progress)
    return _result(config, data, model, reports, best.validation | metrics, linear)


def _weighed(
    config: TwoTowerConfig, data: TrainingData, model: TwoTower, held_out: Cases, progress: OnProgress
) -> Weighed:
    """In the first process; the others wait for it at their next gradients."""
    if this_process().rank > 0 or not config.linear_rank:
        return Weighed(config, None, {})
    progress(LINEAR, 0.0, 1)
    tower = two_tower_scorer(model, config.max_length, data.profiles)
    weighed = with_weight(config, data, tower, held_out)
    progress(LINEAR, 1.0, 1)
    return weighed


def _linear(config: TwoTowerConfig, data: TrainingData, progress: OnProgress) -> LinearPart | None:
    if this_process().rank > 0 or not has_linear_part(config, data):
        return None
    progress(LINEAR, 0.0, 1)
    fitted = linear_part(config, data)
    progress(LINEAR, 1.0, 1)
    return fitted


def _result(
    config: TwoTowerConfig,
    data: TrainingData,
    model: TwoTower,
    reports: Sequence[EpochReport],
    validation: dict[str, float],
    linear: LinearPart | None,
) -> TwoTowerResult:
    return TwoTowerResult(
        model,
        data.items,
        config,
        reports,
        data.profiles,
        validation,
        data.newest_ms,
        data.repeats,
        linear,
    )


def _fit(
    config: TwoTowerConfig,
    data: TrainingData,
    phase: str,
    epochs: int,
    progress: OnProgress,
    after_epoch: AfterEpoch,
) -> tuple[TwoTower, list[EpochReport]]:
    """Train from random weights or `config.start`; gives the best epoch's model where events are held out."""
    seed_everything(config.seed)
    rank, world = this_process()
    device = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device
    model = _new_model(config, data).to("cpu" if device == "auto" else device)
    if config.start is not None:
        warm_start(model, config.start, config.shape, data.items)
    average = running_average(model, config.ema) if config.ema else None
    optimizer = make_optimizer(model, config)
    loss_of = make_loss(config.loss, data.counts, config.negatives, config.logq, config.popularity_adjustment)
    step = _data_parallel(_ForwardAndLoss(model, loss_of, config))
    augment = augmenter(config.augmentation, neighbours=substitutes(config, data))
    targets = Targets(
        repeats=bool(data.repeats.days),
        wanted=wanted_type(config),
        half_life_ms=config.half_life_days * MS_PER_DAY,
        newest_ms=data.newest_ms,
        newer_than_ms=config.newer_than_ms,
    )
    plan = BatchPlan(config.max_length, config.batch_tokens, config.windows, targets, data.profiles)

    state = TrainingState(model, average, optimizer)
    path, identity = config.work / f"{phase}.safetensors", _identity(config, data, phase)
    state.restore(path, identity)
    at, saved = state.progress, time.monotonic()
    while at.epoch < epochs and not _is_stale(at.reports, config.patience):
        model.train()
        loader = Prefetcher(epoch_batches(data.files, data.cut, plan, config.seed, at.epoch, augment))
        for index, (batch, users_read) in enumerate(loader):
            if index < at.batch:  # trained on before the run was interrupted
                continue
            started = time.monotonic()
            done = at.epoch + users_read / data.files.users
            for group in optimizer.param_groups:
                share = warmup_cosine(at.step, config.warmup_steps, done / epochs)
                group["lr"] = config.learning_rate * share
            seed_step(config.seed, at.step)
            negatives = loss_of.draw()  # the same in every process
            seed_step(config.seed, at.step, rank)
            loss = step(batch.shard(rank, world), negatives) * (world / batch.n_targets)
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(model, config.clip)
            optimizer.step()
            if average is not None:
                average.update_parameters(model)
            at.step, at.batch = at.step + 1, index + 1
            at.targets += batch.n_targets
            at.loss += summed(loss) / world * batch.n_targets
            at.loader_seconds += loader.cpu_s
            at.waited_seconds += loader.waited_s
            at.seconds += time.monotonic() - started
            if rank == 0:
                progress(phase, done, epochs)
            if from_first(time.monotonic() - saved > config.checkpoint_s):
                state.save(path, identity, write=rank == 0)
                saved = time.monotonic()
        _finish_epoch(state, data, config)
        state.save(path, identity, write=rank == 0)
        after_epoch([EpochReport(**report) for report in at.reports])
    if state.best:
        state.evaluated.load_state_dict(state.best)
    return _unsharded(state.evaluated, config, data).eval().cpu(), [EpochReport(**r) for r in at.reports]


class _ForwardAndLoss(nn.Module):
    """Forward pass and loss in one module, so that data-parallel wrapping sees every parameter's use."""

    def __init__(self, model: TwoTower, loss_of: Loss, config: TwoTowerConfig) -> None:
        super().__init__()
        self.model = model
        self._loss_of = loss_of
        self._all_items = config.loss is LossName.FULL
        self._bf16 = config.bf16

    def forward(self, batch: Batch, negatives: Tensor | None) -> Tensor:
        """The sum of the losses of the batch's targets. `negatives`: what the loss has drawn for this batch."""
        device = self.model.user.log_scale.device
        history, types, gaps, targets, profile = (torch.from_numpy(array).to(device) for array in batch)
        items = ItemTable(self.model.items) if self._all_items else self.model.items
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            users = self.model(history, types, gaps, profile, items)
        real = targets > 0
        return self._loss_of(users[real].float(), targets[real], items, negatives)


def _data_parallel(step: _ForwardAndLoss) -> nn.Module:
    """Average gradients over the processes, except those of sharded rows: each row has one owner."""
    if this_process().world == 1:
        return step
    own = ["model.items.ids.shard"] if isinstance(step.model.items.ids, ShardedEmbedding) else []
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, own)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(step)


def _new_model(config: TwoTowerConfig, data: TrainingData) -> TwoTower:
    rows = 1 + len(data.items)
    ids = (
        ShardedEmbedding(rows, config.shape.dim, config.seed, id_scale(config.shape))
        if config.shard_items
        else None
    )
    return TwoTower(config.shape, data.items, ids)


def _unsharded(model: TwoTower, config: TwoTowerConfig, data: TrainingData) -> TwoTower:
    """The model with all its rows in this process, which scoring and export need."""
    if not config.shard_items:
        return model
    whole = TwoTower(config.shape, data.items)
    whole.load_state_dict(model.state_dict())
    return whole


def _finish_epoch(state: TrainingState[TwoTower], data: TrainingData, config: TwoTowerConfig) -> None:
    """Report the epoch, validate, and remember the best weights."""
    at = state.progress
    validation: dict[str, float] = {}
    if data.held_out is not None:
        model = _unsharded(state.evaluated, config, data)
        scorer = two_tower_scorer(model, config.max_length, data.profiles)
        ranks = next_item_ranks(scorer, data.held_out, len(data.items))
        validation = dict(zip(METRICS, (hit_rate(ranks, 10), ndcg(ranks, 10)), strict=True))
    report = EpochReport(
        epoch=at.epoch + 1,
        loss=at.loss / at.targets if at.targets else math.nan,  # nobody has engaged with anything
        seconds=at.seconds,
        targets_per_s=at.targets / max(at.seconds, 1e-9),
        loader_targets_per_s=at.targets / max(at.loader_seconds, 1e-9),
        waited_s=at.waited_seconds,
        validation=validation,
    )
    at.reports.append(asdict(report))
    if validation and _best(at.reports) == len(at.reports) - 1:
        state.best = {name: t.detach().clone() for name, t in state.evaluated.state_dict().items()}
    at.epoch, at.batch, at.targets = at.epoch + 1, 0, 0
    at.loss = at.seconds = at.loader_seconds = at.waited_seconds = 0.0


def _best(reports: Sequence[dict[str, Any]]) -> int:
    """The first of the epochs with the highest validation NDCG@10."""
    return int(np.argmax([r["validation"].get("ndcg@10", 0.0) for r in reports]))


def _is_stale(reports: Sequence[dict[str, Any]], patience: int) -> bool:
    """No better validation for `patience` epochs."""
    return bool(reports and reports[-1]["validation"]) and len(reports) - 1 - _best(reports) >= patience


def _identity(config: TwoTowerConfig, data: TrainingData, phase: str) -> dict[str, Any]:
    """What a checkpoint must share with the run that continues from it: settings and size of the data."""
    free = {"sequences", "items", "users", "work", "threads", "device", "checkpoint_s"}
    free |= {name for name in TwoTowerConfig.model_fields if name.startswith("linear_")}  # not of the model
    size = {"users": data.files.users, "n_items": len(data.items), "events": int(data.counts.sum())}
    return {"phase": phase, **size, **config.model_dump(mode="json", exclude=free)}


def _print_progress(phase: str, done: float, epochs: int) -> None:
    sys.stderr.write(f"\rtwo-tower {phase}: epoch {done:.2f} of {epochs} ")


if __name__ == "__main__":  # torchrun --nproc-per-node 2 -m training.two_tower.train config.json
    main(TwoTowerConfig.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")), _print_progress)
