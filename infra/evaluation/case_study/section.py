"""A section measures some rows of the case study. Its result is stored until the whole study is done.

A section is a frozen dataclass: its fields decide what it measures, so a stored result is valid for equal fields only.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from infra.evaluation.case_study.rows import Measured
from infra.terminal import console
from recsys.files import atomic_write


@dataclass(frozen=True)
class Sheet:
    """A further table of the report: what a row is made of, or what has no promise."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str | float]]
    note: str = ""


@dataclass(frozen=True)
class Found:
    """`data`: JSON-ready, for the plots and for readers of `results.json`."""

    rows: Sequence[Measured]
    sheets: Sequence[Sheet] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


class Section(Protocol):
    """`name` is unique."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    name: ClassVar[str]

    def measure(self) -> Found: ...


def measure_all(sections: Iterable[Section], stored: Path) -> dict[str, Found]:
    """Results by section: measured now, or read from the folder `stored` where an interrupted study left them."""
    found = {}
    for section in sections:
        path = stored / f"{section.name}.json"
        identity = json.loads(json.dumps(asdict(section), default=str))
        old = _read(path)
        if old is not None and old["of"] == identity:
            console.print(f"{section.name}: stored by an interrupted run ({path})")
            found[section.name] = _found(old)
            continue
        console.print(f"{section.name} …")
        began = time.monotonic()
        found[section.name] = section.measure()
        took_s = time.monotonic() - began
        console.print(f"{section.name}: {took_s:.0f} s")
        content = {"of": identity, "took_s": took_s, "found": asdict(found[section.name])}
        atomic_write(path, json.dumps(content, default=float))
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content


def _found(content: Mapping[str, Any]) -> Found:
    found = content["found"]
    rows = [
        Measured(**{**row, "interval": tuple(row["interval"]) if row["interval"] else None})
        for row in found["rows"]
    ]
    return Found(rows, [Sheet(**sheet) for sheet in found["sheets"]], found["data"])
