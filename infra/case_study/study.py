"""`recsys case-study`: the promised table beside what this system measures, each row with how it was found.

Rows that are not measured here are in the table as such, and the command then exits 1.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.case_study.models import models
from infra.case_study.rows import PROMISES, Measured, table
from infra.case_study.storage import storage
from recsys.result import Goal, Result


@dataclass(frozen=True)
class CaseStudy:
    """Sizes. `ladder`: of `recsys train ladder`."""

    ladder: Path
    out: Path
    seed: int = 0
    users: int = 2_000
    items: int = 2_000
    days: int = 7
    candidates: int = 500
    calls: int = 200

    @classmethod
    def quick(cls, ladder: Path, out: Path, seed: int) -> "CaseStudy":
        return cls(ladder, out, seed, users=300, items=500, days=3, calls=40)


def run(config: CaseStudy) -> Result:
    """Measure, and write `report.md`, `report.html` and `results.json`.

    Raises:
        InvalidData: the ladder has not been built.
    """
    found = [
        *models(config.ladder, config.candidates, config.calls),
        *storage(config.users, config.items, config.days, config.seed),
    ]
    whole = {m.row: m for m in found if not m.part}
    missing = [promise.row for promise in PROMISES if promise.row not in whole]
    figures: dict[str, float] = {"rows": len(PROMISES), "rows_not_measured": len(missing)}
    goals = {"rows_not_measured": Goal("==", 0)}
    for promise in PROMISES:
        if measured := whole.get(promise.row):
            figures |= {
                f"{promise.row}_before": measured.before,
                f"{promise.row}_after": measured.after,
                f"{promise.row}_change": measured.change,
            }
            goals[f"{promise.row}_change"] = Goal("<=" if promise.ours < 0 else ">=", promise.ours)
    for measured in found:
        if measured.part:
            figures[f"{measured.row}_{measured.part.replace(' ', '_').lower()}_change"] = measured.change
    result = Result("case-study", config.seed, figures, goals)
    _write(config.out, result, table(whole), [m for m in found if m.part])
    return result


def _write(out: Path, result: Result, rows: Sequence[dict[str, Any]], parts: Sequence[Measured]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = result.to_dict() | {"rows": list(rows), "parts": [asdict(part) for part in parts]}
    (out / "results.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    lines = _lines(rows, parts)
    setting = ", ".join(f"{k} {v}" for k, v in {**content["hardware"], **content["versions"]}.items())
    head = "| " + " | ".join(lines[0]) + " |\n|" + "---|" * len(lines[0])
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines[1:])
    (out / "report.md").write_text(f"# Case study\n\n{head}\n{body}\n\n{setting}\n", encoding="utf-8")
    cells = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"
        for line, tag in zip(lines, ["th"] + ["td"] * (len(lines) - 1), strict=True)
    )
    (out / "report.html").write_text(
        "<!doctype html><meta charset=utf-8><title>Case study</title>"
        "<style>body{font:15px sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:left}"
        f"tr:nth-child(even){{background:#f4f4f4}}</style><h1>Case study</h1><table>{cells}</table>"
        f"<p>{html.escape(setting)}</p>",
        encoding="utf-8",
    )


def _lines(rows: Sequence[dict[str, Any]], parts: Sequence[Measured]) -> list[list[str]]:
    lines = [["row", "promised", "ours, at least", "before", "after", "change", "", "how"]]
    for row in rows:
        measured = row["change"] is not None
        lines.append(
            [
                f"{row['row']} ({row['unit'] or row['what']})",
                f"{row['promised']:+.0%}",
                f"{row['ours_at_least']:+.0%}",
                f"{row['before']:.4g}" if measured else "",
                f"{row['after']:.4g}" if measured else "",
                f"{row['change']:+.1%}" if measured else "",
                ("met" if row["met"] else "missed") if measured else "not measured",
                row["how"] if measured else "",
            ]
        )
    for part in parts:
        change = f"{part.change:+.1%}"
        lines.append(
            [
                f"{part.row}, {part.part} ({part.unit})",
                "",
                "",
                f"{part.before:.4g}",
                f"{part.after:.4g}",
                change,
                "a part",
                part.how,
            ]
        )
    return lines
