"""What the processes of a benchmark cost while it runs: processor time, and the API's memory over the requests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


def largest_rss_mib(pid: int) -> float:
    """Resident memory of the largest process of a tree."""
    return max(float(process.memory_info().rss) for process in _tree(pid)) / 2**20


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
        self.mib = [largest_rss_mib(pid)]

    def note(self, answered: int) -> None:
        """Record the memory after `answered` more requests."""
        self.requests.append(self.requests[-1] + answered)
        self.mib.append(largest_rss_mib(self._pid))

    @property
    def growth_mib(self) -> float:
        """Growth over the later half of the requests."""
        half = next(i for i, n in enumerate(self.requests) if 2 * n >= self.requests[-1])
        return self.mib[-1] - self.mib[half]
