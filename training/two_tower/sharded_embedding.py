"""An embedding table sharded over several processes by row number, for catalogues that do not fit into one.

Row r lives in process r mod world, at local row r div world, which spreads consecutive items, often of similar
popularity, evenly. A lookup sends each row number to its owner and gets the vector back; the gradient returns the
same way and arrives sparse. A lookup costs two all-to-alls, each of the size of what is asked for.

`state_dict` has the whole table, so a checkpoint does not depend on the number of processes; all of them must call
it together.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from training.two_tower.distributed import this_process

_DRAWN = 1 << 16  # rows drawn at a time: no process ever holds the whole table of random numbers


class ShardedEmbedding(nn.Module):
    """As `nn.Embedding`, with this process's rows only, and sparse gradients. In one process it holds all rows.

    Gradients are averaged over the processes, as `DistributedDataParallel` does for the rest of the model; keep
    its `shard` out of that (`_ddp_params_and_buffers_to_ignore`).
    """

    def __init__(self, rows: int, dim: int, seed: int = 0, std: float = 0.02) -> None:
        """The same `seed` gives the same table, however many processes hold it."""
        super().__init__()
        self.rank, self.world = this_process()
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
