"""Write the tables of docs/case-study.md from results, so that no number in them is typed.

    python -m infra.evaluation.case_study.document var/reports/case-study/results.json [SECTION.json …]

copies those results to docs/case-study.json, with those of single sections that follow (`recsys case-study --section`):
their rows replace those of the whole run; of effect there may be several seeds, of which the first one's do. With
docs/case-study.json itself as the first file, only sections are new. It writes the tables between the document's
markers, and the plot of the seeds. A test compares table and results.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.evaluation.case_study.plots import seeds_plot
from recsys.contracts.errors import InvalidData

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "case-study.json"
DOCUMENT = ROOT / "docs" / "case-study.md"
PLOT = ROOT / "docs" / "images" / "effect.png"
BEGIN, END = (
    "<!-- case study: written by infra.evaluation.case_study.document -->",
    "<!-- end of the case study -->",
)
BEGIN_EFFECT, END_EFFECT = BEGIN.replace("case study:", "effect:"), END.replace("case study", "effect")
TWO_AFTERS = (
    "*After* of the simulated rows is an experiment's arm (lists filled by what users tire of, a place that explores),"
    " and its figure is *before* times one plus the lift that CUPED has adjusted; *after* of all other rows is"
    " `recsys serve` as it comes."
)
SIMULATED = {"ctr", "cvr", "dwell", "diversity"}  # of effect: of several seeds, whose rows stand side by side
_KEPT = ("run", "seed", "hardware", "rows", "parts")  # of a seed's results


def table(results: Mapping[str, Any]) -> str:
    """The rows as Markdown, and how they were found."""
    lines = ["| row | promised | our goal | before | after | change | |", "|---|---|---|---|---|---|---|"]
    effects = results.get("effects", [])
    parts = [*results.get("sections", []), *effects[:1]]
    replaced = {row["row"]: row for part in parts for row in part["rows"]}
    for row in (replaced.get(row["row"], row) for row in results["rows"]):
        simulated = ", *simulated*" if row["simulated"] else ""
        name = f"{row['row'].replace('_', ' ')} ({row['unit'] or row['what']}{simulated})"
        measured = "| | | not measured"
        if row["change"] is not None:
            measured = f"{row['before']:.4g} | {row['after']:.4g} | {_change(row)} | {_verdict(row)}"
        lines.append(f"| {name} | {row['promised']:+.0%} | {row['ours_at_least']:+.0%} | {measured} |")
    run = _run(results)
    for part in parts:
        run += f"\nRows {', '.join(row['row'] for row in part['rows'])}: {_run(part)}"
    for effect in effects[1:]:
        if missed := [row["row"] for row in effect["rows"] if not row["met"]]:
            run += f" With seed {effect['seed']}, {' and '.join(missed)} **missed** the goal."
    if any(row["simulated"] for row in results["rows"]):
        run += f"\n{TWO_AFTERS}"
    return "\n".join([*lines, "", run])


def effect_table(results: Mapping[str, Any]) -> str:
    """The rows of effect of each seed, against both controls."""
    effects = results.get("effects", [])
    seeds = [f"seed {effect['seed']}" for effect in effects]
    lines = [f"| | promised | {' | '.join(seeds)} |", f"|---|---|{'---|' * len(seeds)}"]
    for name in [row["row"] for row in effects[0]["rows"]] if effects else []:
        rows = [next(row for row in effect["rows"] if row["row"] == name) for effect in effects]
        cells = " | ".join(f"{_change(row)}{'' if row['met'] else ' **missed**'}" for row in rows)
        lines.append(f"| {name} | {rows[0]['promised']:+.0%} | {cells} |")
    for name in [part["row"] for part in effects[0]["parts"]] if effects else []:
        parts = [next(part for part in effect["parts"] if part["row"] == name) for effect in effects]
        lines.append(f"| {name}, {parts[0]['part']} | | {' | '.join(map(_change, parts))} |")
    return "\n".join([*lines, "", *(f"* seed {effect['seed']}: {_run(effect)}" for effect in effects)])


def _run(results: Mapping[str, Any]) -> str:
    hardware = ", ".join(f"{key} {value}" for key, value in results["hardware"].items())
    return f"`{results['run']}`, seed {results['seed']}; {hardware}."


def _change(row: Mapping[str, Any]) -> str:
    low_high = f" [{row['interval'][0]:+.1%}, {row['interval'][1]:+.1%}]" if row["interval"] else ""
    return f"{row['change']:+.1%}{low_high}"


def _verdict(row: Mapping[str, Any]) -> str:
    if row["met"]:
        return "met"
    sign = 1 if row["promised"] > 0 else -1
    worst = min(sign * end for end in row["interval"] or [row["change"]])
    return "promise met, goal **missed**" if worst > sign * row["promised"] else "**missed**"


def written(text: str, results: Mapping[str, Any]) -> str:
    """The document with the tables between their markers; unchanged without markers.

    Raises:
        InvalidData: an end is missing.
    """
    text = _between(text, BEGIN, END, table(results))
    return _between(text, BEGIN_EFFECT, END_EFFECT, effect_table(results))


def _between(text: str, begin: str, end: str, content: str) -> str:
    if begin not in text:
        return text
    head, rest = text.split(begin, 1)
    if end not in rest:
        raise InvalidData(f"a document has {begin!r} and not {end!r} after it")
    return f"{head}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def main(results: Path, sections: Sequence[Path] = ()) -> None:
    """Copy the results, and write document and plot."""
    content = json.loads(results.read_text(encoding="utf-8"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sections]
    those = [{key: each[key] for key in _KEPT} for each in found]
    if effects := [each for each in those if _rows(each) & SIMULATED]:
        content["effects"] = effects
    for each in those:
        if each not in effects:
            older = [old for old in content.get("sections", []) if not _rows(old) & _rows(each)]
            content["sections"] = [*older, each]
    text = written(DOCUMENT.read_text(encoding="utf-8"), content)
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    DOCUMENT.write_text(text, encoding="utf-8")
    if content.get("effects"):
        PLOT.write_bytes(seeds_plot(content["effects"]))


def _rows(results: Mapping[str, Any]) -> set[str]:
    return {row["row"] for row in results["rows"]}


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]] or [RESULTS]
    main(given[0], given[1:])
