"""What the processes of a bench cost while it runs: processor time of each, and the API's memory over the requests."""

from types import TracebackType
from typing import Self

import psutil

from infra.evaluation.benchmarks.stream import cpu_seconds


def tree(pid: int) -> list[psutil.Process]:
    """A process and its living descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def tree_cpu_s(pid: int) -> float:
    """CPU time of a process and its descendants so far."""
    return sum(cpu_seconds(process.pid) for process in tree(pid))


def largest_rss_mib(pid: int) -> float:
    """Of the largest process of a tree."""
    return max(float(process.memory_info().rss) for process in tree(pid)) / 2**20


class Watch:
    """CPU seconds of named process trees between enter and exit, in `cpu_s`."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self.cpu_s: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._before = {name: tree_cpu_s(pid) for name, pid in self._pids.items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cpu_s = {name: tree_cpu_s(pid) - self._before[name] for name, pid in self._pids.items()}


class MemoryCurve:
    """Resident MiB of the largest API process against the requests that have been answered."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.requests = [0]
        self.mib = [largest_rss_mib(pid)]

    def note(self, answered: int) -> None:
        """So many more were answered; look at the memory now."""
        self.requests.append(self.requests[-1] + answered)
        self.mib.append(largest_rss_mib(self._pid))

    @property
    def growth_mib(self) -> float:
        """By how much it grew over the later half of the requests."""
        half = next(i for i, n in enumerate(self.requests) if 2 * n >= self.requests[-1])
        return self.mib[-1] - self.mib[half]
