"""An embedding table over several processes, for catalogues that do not fit into one: rows dealt out by number.

Row r lives in process r mod world, at local row r div world (consecutive items, often of like popularity, are
spread evenly). A lookup sends each row number to its owner and gets the vector back; the gradient goes the same way
backwards and arrives as a sparse one. Two all-to-alls a lookup, each of the size of what is asked for.

`state_dict` has the whole table, so a checkpoint does not depend on the number of processes; all of them must ask
for it together.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

_DRAWN = 1 << 16  # rows drawn at a time: no process ever holds the whole table of random numbers


class ShardedEmbedding(nn.Module):
    """As `nn.Embedding`, with this process's rows only, and sparse gradients. In one process it holds all rows.

    Gradients are averaged over the processes, as `DistributedDataParallel` does for the rest of the model; keep
    its `shard` out of that (`_ddp_params_and_buffers_to_ignore`).
    """

    def __init__(self, rows: int, dim: int, seed: int = 0, std: float = 0.02) -> None:
        """The same `seed` gives the same table, however many processes hold it."""
        super().__init__()
        together = dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self.rows = rows
        generator = torch.Generator().manual_seed(seed)
        own = []
        for start in range(0, rows, _DRAWN):
            drawn = torch.randn(min(_DRAWN, rows - start), dim, generator=generator) * std
            own.append(drawn[(self.rank - start) % self.world :: self.world])
        self.shard = nn.Parameter(torch.cat(own))

    def forward(self, numbers: Tensor) -> Tensor:
        """(…,) int64 → (…, d). All processes must call it together, with any numbers, none included."""
        if self.world == 1:
            return F.embedding(numbers, self.shard, sparse=True)
        asked, places = torch.unique(numbers, return_inverse=True)
        order = torch.argsort(asked % self.world, stable=True)
        to_ask = torch.bincount(asked % self.world, minlength=self.world)
        to_answer = _exchange_counts(to_ask)
        theirs = asked.new_empty(int(to_answer.sum()))
        dist.all_to_all_single(theirs, asked[order] // self.world, to_answer.tolist(), to_ask.tolist())
        answers = F.embedding(theirs, self.shard, sparse=True)
        received = cast(Tensor, _Exchange.apply(answers, to_ask.tolist(), to_answer.tolist()))  # type: ignore[no-untyped-call]
        return received[torch.argsort(order)][places]

    def gather(self, own: Tensor) -> Tensor:
        """(own rows, d) of every process → (rows, d), in every process."""
        if self.world == 1:
            return own
        most = -(-self.rows // self.world)
        padded = torch.cat([own, own.new_zeros(most - len(own), own.shape[1])])
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        whole = own.new_empty(self.rows, own.shape[1])
        for rank, part in enumerate(parts):
            place = whole[rank :: self.world]
            place.copy_(part[: len(place)])
        return whole

    def own(self, whole: Tensor) -> Tensor:
        """(rows, d) → (own rows, d)."""
        return whole[self.rank :: self.world].clone()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Under the name that the table of `nn.Embedding` has."""
        destination[f"{prefix}weight"] = self.gather(self.shard.detach())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        with torch.no_grad():
            self.shard.copy_(self.own(state_dict[f"{prefix}weight"]))


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


def clip_gradients(parameters: Sequence[nn.Parameter], table: ShardedEmbedding, most: float) -> None:
    """As `nn.utils.clip_grad_norm_`, over the parameters that every process has and the rows that are dealt out."""
    dense = [p.grad for p in parameters if p is not table.shard and p.grad is not None]
    rows = table.shard.grad
    if rows is not None:
        table.shard.grad = rows = rows.coalesce()
    squared = rows.values().square().sum() if rows is not None else table.shard.new_zeros(())
    if table.world > 1:
        dist.all_reduce(squared)
    norm = torch.sqrt(squared + sum((g.square().sum() for g in dense), start=squared.new_zeros(())))
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in _values(dense, rows):
        gradient.mul_(scale)


def _values(dense: Sequence[Tensor], rows: Tensor | None) -> Iterator[Tensor]:
    yield from dense
    if rows is not None:
        yield rows.values()


def _exchange_counts(counts: Tensor) -> Tensor:
    received = torch.empty_like(counts)
    dist.all_to_all_single(received, counts)
    return received


class _Exchange(torch.autograd.Function):
    """Rows to the processes that asked for them; backwards, their gradients to the owners, averaged."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, receive: list[int], send: list[int]) -> Tensor:
        ctx.splits = (receive, send)
        received = rows.new_empty(sum(receive), rows.shape[1])
        dist.all_to_all_single(received, rows.contiguous(), receive, send)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        receive, send = ctx.splits
        (gradient,) = gradients
        returned = gradient.new_empty(sum(send), gradient.shape[1])
        dist.all_to_all_single(returned, gradient.contiguous(), send, receive)
        return returned / dist.get_world_size(), None, None
