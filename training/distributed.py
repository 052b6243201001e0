"""Data-parallel processes: started by `torchrun` or by Spark's `TorchDistributor`, which set the same variables."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """Join the other processes, if there are any; gives (rank, number of processes) and leaves them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def summed(value: Tensor) -> float:
    """The sum of a scalar over all processes."""
    total = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return float(total)
