"""The case study's table in documents: written from `results.json` alone, so that no number in it is typed.

    python -m infra.evaluation.case_study.document var/reports/case-study/results.json

keeps those results as docs/case-study.json and writes their table between the markers of every document that has them.
A test holds the documents to the kept results.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.contracts.errors import InvalidData

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "docs" / "case-study.json"
DOCUMENTS = (ROOT / "docs" / "case-study.md", ROOT / "README.md")
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
        if row["change"] is None:
            lines.append(
                f"| {name} | {row['promised']:+.0%} | {row['ours_at_least']:+.0%} | | | | not measured |"
            )
            continue
        low_high = f" [{row['interval'][0]:+.1%}, {row['interval'][1]:+.1%}]" if row["interval"] else ""
        lines.append(
            f"| {name} | {row['promised']:+.0%} | {row['ours_at_least']:+.0%} | {row['before']:.4g}"
            f" | {row['after']:.4g} | {row['change']:+.1%}{low_high} | {_verdict(row)} |"
        )
    hardware = ", ".join(f"{key} {value}" for key, value in results["hardware"].items())
    run = f"`{results['run']}`, seed {results['seed']}; {hardware}."
    return "\n".join(
        [*lines, "", run, *([TWO_AFTERS] if any(r["simulated"] for r in results["rows"]) else [])]
    )


def _verdict(row: Mapping[str, Any]) -> str:
    if row["met"]:
        return "met"
    sign = 1 if row["promised"] > 0 else -1
    worst = min(sign * end for end in row["interval"] or [row["change"]])
    return "promise met, goal **missed**" if worst > sign * row["promised"] else "**missed**"


def written(text: str, results: Mapping[str, Any]) -> str:
    """The document with the table between its markers; as it is without markers.

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
    """Keep the results, and write every document."""
    content = json.loads(results.read_text(encoding="utf-8"))
    texts = {path: written(path.read_text(encoding="utf-8"), content) for path in DOCUMENTS}
    if results.resolve() != KEPT:
        shutil.copyfile(results, KEPT)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else KEPT)
