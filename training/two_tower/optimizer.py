"""The optimizer: AdamW, and SparseAdam for a sharded item table; gradient clipping; the average of the weights."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from recsys.models.two_tower import TwoTower
from training.two_tower.config import TwoTowerConfig
from training.two_tower.sharded_embedding import ShardedEmbedding


def make_optimizer(model: TwoTower, config: TwoTowerConfig) -> "torch.optim.Optimizer | ShardedAdam":
    """Weight decay is on matrices only, not on embeddings, norms and biases."""
    table = _sharded_table(model)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    dense = [p for p in model.parameters() if table is None or p is not table.shard]
    matrices = [p for p in dense if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for p in dense if p.ndim < 2 or id(p) in embeddings]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    return adam if table is None else ShardedAdam(adam, table, config.learning_rate)


def running_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]


def clip_gradients(model: TwoTower, max_norm: float) -> None:
    """As `nn.utils.clip_grad_norm_`, over the parameters that every process has and the sharded rows."""
    table = _sharded_table(model)
    if table is None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        return
    gradients = [p.grad for p in model.parameters() if p is not table.shard and p.grad is not None]
    squared = table.shard.new_zeros(())
    rows = table.shard.grad
    if rows is not None:
        table.shard.grad = rows = rows.coalesce()
        squared = rows.values().square().sum()
    if table.world > 1:
        dist.all_reduce(squared)
    norm = torch.sqrt(squared + sum((g.square().sum() for g in gradients), start=squared.new_zeros(())))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in [*gradients, *([] if rows is None else [rows.values()])]:
        gradient.mul_(scale)


def _sharded_table(model: TwoTower) -> ShardedEmbedding | None:
    return model.items.ids if isinstance(model.items.ids, ShardedEmbedding) else None


class ShardedAdam:
    """One optimizer for a model with a sharded table: SparseAdam for its rows, `dense` for everything else.

    Like `torch.optim.Optimizer` as far as training and checkpoints need it; `state_dict` has the whole table's state.
    """

    def __init__(self, dense: torch.optim.Optimizer, table: ShardedEmbedding, learning_rate: float) -> None:
        self._dense = dense
        self._table = table
        betas = dense.param_groups[0]["betas"]
        self._sparse = torch.optim.SparseAdam([table.shard], learning_rate, betas)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [*self._dense.param_groups, *self._sparse.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._dense.zero_grad(set_to_none)
        self._sparse.zero_grad(set_to_none)

    def step(self) -> None:
        self._dense.step()
        self._sparse.step()  # type: ignore[no-untyped-call]

    def state_dict(self) -> dict[str, Any]:
        """The state of the rows comes after that of the dense parameters."""
        found = self._dense.state_dict()
        rows = self._sparse.state_dict()["state"].get(0, {})
        number = sum(len(group["params"]) for group in found["param_groups"])
        # its step is a plain number, and a checkpoint holds tensors
        shared = {
            n: self._table.gather(v) if torch.is_tensor(v) else torch.tensor(v) for n, v in rows.items()
        }
        return {**found, "state": found["state"] | ({number: shared} if shared else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        number = sum(len(group["params"]) for group in state_dict["param_groups"])
        dense = {index: slots for index, slots in state_dict["state"].items() if index != number}
        self._dense.load_state_dict({**state_dict, "state": dense})
        rows = state_dict["state"].get(number, {})
        own = {n: self._table.own(v) if v.ndim else int(v) for n, v in rows.items()}
        sparse = self._sparse.state_dict()
        self._sparse.load_state_dict({**sparse, "state": {0: own} if own else {}})
