"""Data-parallel processes: started by `torchrun` or by Spark's `TorchDistributor`, which set the same variables."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist

# Its functions have the group of the moment of the import as a default. An optimiser imports it at its first step: then
# the group, and gloo's threads, would live until the interpreter ends, where they now and then abort the process.
import torch.distributed.nn.functional
from torch import Tensor


class Process(NamedTuple):
    """`rank` of `world` processes."""

    rank: int
    world: int


def this_process() -> Process:
    return Process(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Process(0, 1)


@contextmanager
def processes() -> Iterator[Process]:
    """Join the other processes, if there are any, and leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield this_process()
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield this_process()
        # leaving while another process still communicates takes that one down; not after an error: no wait
        dist.barrier()
    finally:
        dist.destroy_process_group()


def from_first(value: bool) -> bool:
    """The first process's value, in every process: for decisions, such as by the clock, that all must share."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(int(value), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(shared, 0)
    return bool(shared)


def summed(value: Tensor) -> float:
    """The sum of a scalar over all processes."""
    total = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return float(total)
