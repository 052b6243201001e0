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
        dist.barrier()  # who leaves while another still talks to it takes that one down; not after an error: no wait
    finally:
        dist.destroy_process_group()


def from_first(value: bool) -> bool:
    """What the first process says: for decisions, such as by the clock, that all must take alike."""
    if not dist.is_initialized():
        return value
    said = torch.tensor(int(value), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(said, 0)
    return bool(said)


def summed(value: Tensor) -> float:
    """The sum of a scalar over all processes."""
    total = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return float(total)
