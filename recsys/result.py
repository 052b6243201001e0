"""The result format of all benchmarks, fault-injection tests, evaluations and reports.

With `--json` a command prints one such object and nothing else on standard output; without it, a table. The exit code
is 1 when a goal is missed.
"""

import json
import math
import operator
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

from recsys.cores import cores

Comparison = Literal["<", "<=", "==", ">=", ">"]
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}
_REPORTED = ("numpy", "torch", "faiss-cpu", "onnxruntime", "redis", "kafka-python", "pyspark", "fastapi")


def to_json(content: object, indent: int | None = None) -> str:
    """Standard JSON, which has no NaN: an undefined figure is null.

    >>> to_json({"click_auc": math.nan})
    '{"click_auc": null}'
    """
    standard = json.loads(json.dumps(content, default=str), parse_constant=lambda name: None)
    return json.dumps(standard, indent=indent)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure must satisfy: `figure op value`. NaN meets no goal.

    >>> Goal("<=", 10).met(9.5), Goal("<=", 10).met(math.nan)
    (True, False)
    """

    op: Comparison
    value: float

    def met(self, figure: float) -> bool:
        return not math.isnan(figure) and bool(_OPERATORS[self.op](figure, self.value))


@dataclass(frozen=True)
class Result:
    """Figures by name (units in the name: `p99_ms`, `events_per_s`) and the goals of some of them.

    `notes`: what a reader must know of them, such as what was not measured.
    """

    command: str
    seed: int
    figures: Mapping[str, float]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        missing = self.goals.keys() - self.figures.keys()
        if missing:
            raise KeyError(f"goals without a figure: {', '.join(sorted(missing))}")

    @property
    def met(self) -> bool:
        return all(goal.met(self.figures[name]) for name, goal in self.goals.items())

    def to_dict(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "seed": self.seed,
            "hardware": hardware(),
            "versions": versions(),
            "figures": {
                name: figure if isinstance(figure, int) else float(figure)  # JSON has no numpy numbers
                for name, figure in self.figures.items()
            },
            "goals": {
                name: {"op": goal.op, "value": goal.value, "met": goal.met(self.figures[name])}
                for name, goal in self.goals.items()
            },
            "met": self.met,
            "notes": list(self.notes),
        }


def hardware() -> dict[str, str | int]:
    """The machine of the figures."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "memory_gib": round(pages / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a pseudo file
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that figures depend on."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in _REPORTED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
