"""An embedding table over several processes, for catalogues that do not fit into one: rows dealt out by number.

Row r lives in process r mod world, at local row r div world (consecutive items, often of like popularity, are
spread evenly). A lookup sends each row number to its owner and gets the vector back; the gradient goes the same way
backwards and arrives as a sparse one. Two all-to-alls a lookup, each of the size of what is asked for.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ShardedEmbedding(nn.Module):
    """As `nn.Embedding`, with this process's rows only. Optimise it with `torch.optim.SparseAdam`.

    Gradients are averaged over the processes, as `DistributedDataParallel` does for the rest of the model; keep
    its `shard` out of that (`_ddp_params_and_buffers_to_ignore`).
    """

    def __init__(self, rows: int, dim: int, seed: int = 0, std: float = 0.02) -> None:
        """The same `seed` gives the same table, however many processes hold it."""
        super().__init__()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        whole = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * std
        own = whole[self.rank :: self.world]
        self.shard = nn.Embedding(len(own), dim, sparse=True, _weight=own.clone())

    def forward(self, numbers: Tensor) -> Tensor:
        """(…,) int64 → (…, d). All processes must call it together, with any numbers, none included."""
        asked, places = torch.unique(numbers, return_inverse=True)
        order = torch.argsort(asked % self.world, stable=True)
        to_ask = torch.bincount(asked % self.world, minlength=self.world)
        to_answer = _exchange_counts(to_ask)
        theirs = asked.new_empty(int(to_answer.sum()))
        dist.all_to_all_single(theirs, asked[order] // self.world, to_answer.tolist(), to_ask.tolist())
        answers = self.shard(theirs)
        received = cast(Tensor, _Exchange.apply(answers, to_ask.tolist(), to_answer.tolist()))  # type: ignore[no-untyped-call]
        return received[torch.argsort(order)][places]


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
