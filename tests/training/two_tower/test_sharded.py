"""The sharded table against one in one process: same vectors, same training, whichever process asks for what."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.two_tower.distributed import processes
from training.two_tower.sharded_embedding import ShardedEmbedding

ROWS, DIM, STEPS, WORLD, RATE = 23, 6, 12, 2, 0.2


def asked(step: int, rank: int) -> torch.Tensor:
    """Different numbers a process, with repeats; in some steps a process asks for one row or for none."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    size = {0: 0, 1: 1}.get((step + rank) % 4, 9)
    return torch.randint(0, ROWS, (size,), generator=generator)


def wanted(numbers: torch.Tensor) -> torch.Tensor:
    return torch.sin(numbers[:, None] + torch.arange(DIM))


def process() -> None:
    """One of the processes: trains the sharded table; the first writes the losses and the whole table."""
    with processes() as (rank, _):
        train(rank)
    assert not gloo_threads(), "one of them could abort the process when it ends"


def gloo_threads() -> list[str]:
    found = []
    for comm in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has just ended
            found.append(comm.read_text(encoding="ascii").strip())
    return [name for name in found if "gloo" in name]


def train(rank: int) -> None:
    table = ShardedEmbedding(ROWS, DIM, seed=3)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        numbers = asked(step, rank)
        loss = (table(numbers) - wanted(numbers)).square().sum() * WORLD
        optimizer.zero_grad()
        loss.backward()
        assert table.shard.grad is not None
        assert table.shard.grad.is_sparse
        optimizer.step()  # type: ignore[no-untyped-call]
        total = loss.detach() / WORLD
        torch.distributed.all_reduce(total)
        losses.append(total)
    vectors = table(torch.arange(ROWS)).detach()
    whole = table.state_dict()["weight"]
    assert torch.equal(whole, vectors)
    assert torch.equal(table.own(whole), table.shard)
    if rank == 0:
        torch.save({"losses": torch.stack(losses), "vectors": vectors}, sys.argv[1])


def alone() -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(3)) * 0.02
    table = torch.nn.Embedding(ROWS, DIM, sparse=True, _weight=weight)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        numbers = torch.cat([asked(step, rank) for rank in range(WORLD)])
        loss = (table(numbers) - wanted(numbers)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    return torch.stack(losses), table.weight.detach()


@pytest.mark.slow
def test_two_processes_train_the_table_of_one(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    subprocess.run(
        [*torchrun, "-m", "tests.training.two_tower.test_sharded", str(tmp_path / "out.pt")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=240,
    )
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    losses, vectors = alone()
    torch.testing.assert_close(found["losses"], losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["vectors"], vectors, rtol=1e-4, atol=1e-5)
    untrained = wanted(torch.arange(ROWS)).square().mean()
    assert (vectors - wanted(torch.arange(ROWS))).square().mean() < untrained / 2


if __name__ == "__main__":
    process()
