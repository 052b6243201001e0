"""Joules: by RAPL or NVML where the machine has meters that can be read, else by a model with bounds.

The model counts processor seconds and memory over time. Its constants are published ones; where they vary between
machines, the bounds do. Nothing of it includes cooling, power supplies, disks or networks.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

Source = Literal["rapl", "nvml", "model"]
POWERCAP = Path("/sys/class/powercap")
_MICRO, _MILLI = 1e6, 1e3
_GIB = 2**30


class Watts(NamedTuple):
    """A power with its bounds."""

    low: float
    typical: float
    high: float


# Of one busy hardware thread. typical: of AWS's servers at full load, Cloud Carbon Footprint, "Methodology" (SPECpower
# data: .74 W idle, 3.5 W busy). low: 225 W of an EPYC 7742 over its 128 threads. high: those 3.5 W and the idle power
# of the four other threads that a machine at a fifth of its load keeps waiting for it.
CORE = Watts(225 / 128, 3.5, 3.5 + 4 * 0.74)
# Of a GiB of DRAM in use, from W per GB. typical: what the same methodology takes. high: Micron's figure, the higher of
# the two behind it. low: none, since SPECpower's watts are of whole servers, whose usual memory they include.
MEMORY = Watts(0.0, 0.392 * _GIB / 1e9, 0.4083 * _GIB / 1e9)


@dataclass(frozen=True)
class Energy:
    """`low` ≤ `joules` ≤ `high`; all three are equal where they were measured."""

    joules: float
    low: float
    high: float
    source: Source

    def times(self, factor: float) -> "Energy":
        """Of that many of it. `factor` is not negative."""
        return Energy(self.joules * factor, self.low * factor, self.high * factor, self.source)


def modelled(cpu_s: float, gib_s: float) -> Energy:
    """From processor seconds, and GiB of memory times the seconds that they were held; both at least 0."""
    low, typical, high = (core * cpu_s + memory * gib_s for core, memory in zip(CORE, MEMORY, strict=True))
    return Energy(typical, low, high, "model")


class RaplMeter:
    """Joules of the whole machine: its processor packages, and DRAM where that has a counter of its own.

    A counter starts at 0 again after some minutes of full load, so `read` must be called more often than that.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        """
        Raises:
            OSError: no counter, or only root may read them (as in most distributions since 2020).
        """
        self._ranges = {zone: _number(zone / "max_energy_range_uj") for zone in _zones(root)}
        if not self._ranges:
            raise FileNotFoundError(f"{root}: no energy counters of packages")
        self._last = {zone: _number(zone / "energy_uj") for zone in self._ranges}
        self._microjoules = 0

    def read(self) -> Energy:
        """Since the meter was made."""
        for zone, size in self._ranges.items():
            now = _number(zone / "energy_uj")
            grown = now - self._last[zone]
            self._microjoules += grown if grown >= 0 else grown + size
            self._last[zone] = now
        joules = self._microjoules / _MICRO
        return Energy(joules, joules, joules, "rapl")


def rapl() -> RaplMeter | None:
    """None where there are no counters or they may not be read."""
    try:
        return RaplMeter()
    except (OSError, ValueError):
        return None


def _zones(root: Path) -> list[Path]:
    """Packages and DRAM. Cores and graphics are parts of a package; `psys` has all of them once more."""
    found = []
    for zone in sorted(root.glob("intel-rapl:*")):  # AMD's, too
        name = (zone / "name").read_text(encoding="ascii").strip()
        if name.startswith("package") or name == "dram":
            found.append(zone)
    return found


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def nvml() -> Energy | None:
    """Of all NVIDIA devices since the driver was loaded; None without devices or without the package `pynvml`."""
    try:
        library = import_module("pynvml")
        library.nvmlInit()
    except Exception:  # absent, or one of its own errors: no driver, no device
        return None
    try:
        devices = map(library.nvmlDeviceGetHandleByIndex, range(library.nvmlDeviceGetCount()))
        joules = sum(map(library.nvmlDeviceGetTotalEnergyConsumption, devices)) / _MILLI
    except library.NVMLError:  # a device without that counter
        return None
    finally:
        library.nvmlShutdown()
    return Energy(joules, joules, joules, "nvml")


class ProcessEnergy:
    """The modelled energy of this process: its processor time since it started, its memory since this was made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s, self._gib_s = clock(), 0.0

    def read(self) -> Energy:
        """So far. Memory counts as it is now since the read before."""
        now_s = self._clock()
        self._gib_s += resident_bytes() / _GIB * (now_s - self._last_s)
        self._last_s = now_s
        return modelled(time.process_time(), self._gib_s)


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except FileNotFoundError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
