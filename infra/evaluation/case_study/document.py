"""Write the table of docs/case-study.md from `results.json`, so that no number in it is typed.

    python -m infra.evaluation.case_study.document var/reports/case-study/results.json

copies those results to docs/case-study.json and writes their table between the document's markers. A test compares the
two.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.contracts.errors import InvalidData

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "case-study.json"
DOCUMENT = ROOT / "docs" / "case-study.md"
BEGIN, END = (
    "<!-- case study: written by infra.evaluation.case_study.document -->",
    "<!-- end of the case study -->",
)
TWO_AFTERS = (
    "*After* of the simulated rows is an experiment's arm with a reranking of its own (at most three items of a"
    " category, a place that explores), and its figure is *before* times one plus the lift that CUPED has adjusted;"
    " *after* of all other rows is `recsys serve` as it comes."
)


def table(results: Mapping[str, Any]) -> str:
    """The rows as Markdown, and how they were found."""
    lines = ["| row | promised | our goal | before | after | change | |", "|---|---|---|---|---|---|---|"]
    for row in results["rows"]:
        simulated = ", *simulated*" if row["simulated"] else ""
        name = f"{row['row'].replace('_', ' ')} ({row['unit'] or row['what']}{simulated})"
        measured = "| | | not measured"
        if row["change"] is not None:
            low_high = f" [{row['interval'][0]:+.1%}, {row['interval'][1]:+.1%}]" if row["interval"] else ""
            change = f"{row['change']:+.1%}{low_high}"
            measured = f"{row['before']:.4g} | {row['after']:.4g} | {change} | {_verdict(row)}"
        lines.append(f"| {name} | {row['promised']:+.0%} | {row['ours_at_least']:+.0%} | {measured} |")
    hardware = ", ".join(f"{key} {value}" for key, value in results["hardware"].items())
    run = f"`{results['run']}`, seed {results['seed']}; {hardware}."
    if any(row["simulated"] for row in results["rows"]):
        run += f"\n{TWO_AFTERS}"
    return "\n".join([*lines, "", run])


def _verdict(row: Mapping[str, Any]) -> str:
    if row["met"]:
        return "met"
    sign = 1 if row["promised"] > 0 else -1
    worst = min(sign * end for end in row["interval"] or [row["change"]])
    return "promise met, goal **missed**" if worst > sign * row["promised"] else "**missed**"


def written(text: str, results: Mapping[str, Any]) -> str:
    """The document with the table between its markers; unchanged without markers.

    Raises:
        InvalidData: the end is missing.
    """
    if BEGIN not in text:
        return text
    head, rest = text.split(BEGIN, 1)
    if END not in rest:
        raise InvalidData(f"a document has {BEGIN!r} and not {END!r} after it")
    return f"{head}{BEGIN}\n{table(results)}\n{END}{rest.split(END, 1)[1]}"


def main(results: Path) -> None:
    """Copy the results, and write the document."""
    content = json.loads(results.read_text(encoding="utf-8"))
    text = written(DOCUMENT.read_text(encoding="utf-8"), content)
    if results.resolve() != RESULTS:
        shutil.copyfile(results, RESULTS)
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
