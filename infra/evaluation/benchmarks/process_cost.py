"""What the processes of a benchmark cost while it runs: processor time, and the API's memory over the requests."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far: on a shared machine it says more than the clock."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def tree_cpu_s(pid: int) -> float:
    """CPU time of a process and its descendants so far."""
    return sum(cpu_seconds(process.pid) for process in _tree(pid))


@dataclass(frozen=True)
class Memory:
    """MiB of a process. `pss`: each shared page divided by the number of processes that map it, so that sums count it
    once. `private`: what would be free without this process."""

    rss: float
    pss: float
    private: float

    @classmethod
    def parse(cls, rollup: str) -> "Memory":
        """From the text of `/proc/PID/smaps_rollup`."""
        lines = (line.split() for line in rollup.splitlines()[1:])
        kib = {name.rstrip(":"): int(amount) for name, amount, _ in lines}
        private = kib["Private_Clean"] + kib["Private_Dirty"]
        return cls(kib["Rss"] / 1024, kib["Pss"] / 1024, private / 1024)


def tree_memory(pid: int) -> list[Memory]:
    """Memory of each process of a tree, the root first."""
    found = []
    for process in _tree(pid):
        with suppress(ProcessLookupError, FileNotFoundError):  # it has ended
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
            found.append(Memory.parse(rollup))
    return found


def largest_memory(pid: int) -> Memory:
    """The largest of a tree by RSS, PSS and private memory."""
    return Memory(*map(max, zip(*map(astuple, tree_memory(pid)), strict=True)))


def memory_figures(pids: Mapping[str, int]) -> dict[str, float]:
    """`memory_<name>_{rss,pss,private}_mib` of the largest process of each named tree, and the PSS of the whole one."""
    figures: dict[str, float] = {}
    for name, pid in pids.items():
        tree = tree_memory(pid)
        for kind in ("rss", "pss", "private"):
            figures[f"memory_{name}_{kind}_mib"] = max(getattr(process, kind) for process in tree)
        figures[f"memory_{name}_tree_pss_mib"] = sum(process.pss for process in tree)
    return figures


@contextmanager
def cpu_time(**pids: int) -> Iterator[dict[str, float]]:
    """CPU seconds of named process trees inside the block; filled at its end."""
    before = {name: tree_cpu_s(pid) for name, pid in pids.items()}
    used: dict[str, float] = {}
    yield used
    used |= {name: tree_cpu_s(pid) - before[name] for name, pid in pids.items()}


class MemoryCurve:
    """Resident MiB of the largest API process against the number of answered requests."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.requests = [0]
        self.mib = [largest_memory(pid).rss]

    def note(self, answered: int) -> None:
        """Record the memory after `answered` more requests."""
        self.requests.append(self.requests[-1] + answered)
        self.mib.append(largest_memory(self._pid).rss)

    @property
    def growth_mib(self) -> float:
        """Growth over the later half of the requests."""
        half = next(i for i, n in enumerate(self.requests) if 2 * n >= self.requests[-1])
        return self.mib[-1] - self.mib[half]
