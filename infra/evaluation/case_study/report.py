"""The report of the case study: `report.md`, `report.html` (one file with its plots) and `results.json`."""

import html
import json
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.evaluation.case_study.plots import plots
from infra.evaluation.case_study.rows import table
from infra.evaluation.case_study.section import Found, Sheet
from recsys.result import Result

_STYLE = (
    "body{font:15px sans-serif;margin:2em auto;max-width:80em;color:#222}table{border-collapse:collapse}"
    "td,th{padding:.3em .8em;text-align:left;vertical-align:top}tr:nth-child(even){background:#f4f4f4}"
    "img{max-width:100%}.note{color:#555;max-width:60em}"
)


def write_report(out: Path, result: Result, found: Mapping[str, Found], is_part: bool = False) -> None:
    """Write the three files into `out`. `is_part`: rows that were not measured are not missing."""
    out.mkdir(parents=True, exist_ok=True)
    measured = [row for each in found.values() for row in each.rows]
    rows = table({row.row: row for row in measured if not row.part})
    rows = [row for row in rows if row["change"] is not None or not is_part]
    parts = [asdict(row) | {"change": row.change} for row in measured if row.part]
    content = result.to_dict() | {
        "run": " ".join(["recsys", *sys.argv[1:]]),
        "rows": rows,
        "parts": parts,
        "sheets": [asdict(sheet) for each in found.values() for sheet in each.sheets],
        "data": {name: each.data for name, each in found.items()},
    }
    (out / "results.json").write_text(json.dumps(content, indent=1, default=float), encoding="utf-8")
    sheets = [_rows_sheet(rows, parts), *(sheet for each in found.values() for sheet in each.sheets)]
    setting = ", ".join(f"{k} {v}" for k, v in {**content["hardware"], **content["versions"]}.items())
    foot = f"Seed {result.seed}; `{content['run']}`; {setting}."
    text = "\n".join(map(_markdown, sheets))
    (out / "report.md").write_text(f"# Case study\n\n{text}\n{foot}\n", encoding="utf-8")
    images = "".join(
        f'<h2>{html.escape(title)}</h2><img alt="{html.escape(title)}"'
        f' src="data:image/png;base64,{b64encode(png).decode()}">'
        for title, png in plots(rows, found).items()
    )
    first, *others = sheets
    body = _html(first) + images + "".join(map(_html, others))
    (out / "report.html").write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Case study</title><style>{_STYLE}</style>'
        f"<h1>Case study</h1>{body}<p>{html.escape(foot)}</p></html>",
        encoding="utf-8",
    )


def _rows_sheet(rows: Sequence[Mapping[str, Any]], parts: Sequence[Mapping[str, Any]]) -> Sheet:
    lines: list[list[str]] = []
    for row in rows:
        goals = [_percent(row["promised"]), _percent(row["ours_at_least"])]
        if row["change"] is None:
            lines.append([f"{row['row']} ({row['what']})", *goals, "", "", "", "not measured", ""])
        else:
            name, verdict = f"{row['row']} ({row['unit']}; {row['what']})", "met" if row["met"] else "missed"
            lines.append([name, *goals, *_measured(row), verdict, _how(row)])
    for part in parts:
        name = f"{part['row']}, {part['part']} ({part['unit']})"
        lines.append([name, "", "", *_measured(part), "a part", _how(part)])
    head = ("row", "promised", "ours, at least", "before", "after", "change", "", "how")
    return Sheet("Promised and measured", head, lines)


def _measured(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['before']:.4g}", f"{row['after']:.4g}", _change(row["change"], row["interval"])]


def _how(row: Mapping[str, Any]) -> str:
    return ("*simulated*; " if row["simulated"] else "") + str(row["how"])


def _percent(share: float) -> str:
    return f"{share:+.0%}"


def _change(change: float, interval: Sequence[float] | None) -> str:
    span = f" ({interval[0]:+.1%} … {interval[1]:+.1%})" if interval else ""
    return f"{change:+.1%}{span}"


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _markdown(sheet: Sheet) -> str:
    head = "| " + " | ".join(sheet.columns) + " |\n|" + "---|" * len(sheet.columns)
    body = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in sheet.lines)
    note = f"\n{sheet.note}\n" if sheet.note else ""
    return f"## {sheet.title}\n{note}\n{head}\n{body}\n"


def _html(sheet: Sheet) -> str:
    cells = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(_cell(cell))}</{tag}>" for cell in line) + "</tr>"
        for line, tag in zip([sheet.columns, *sheet.lines], ["th"] + ["td"] * len(sheet.lines), strict=True)
    )
    note = f'<p class="note">{html.escape(sheet.note)}</p>' if sheet.note else ""
    return f"<h2>{html.escape(sheet.title)}</h2>{note}<table>{cells}</table>"
