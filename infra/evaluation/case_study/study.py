"""`recsys case-study`: the promised table and what this system measures, each row with how it was found.

The exit code says whether every row was measured; a row that misses its goal is marked as missed in the table.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from infra.evaluation.case_study.ablation import Ablation
from infra.evaluation.case_study.effect import Effect
from infra.evaluation.case_study.exploring import Exploring
from infra.evaluation.case_study.funnel import Funnel
from infra.evaluation.case_study.models import Models
from infra.evaluation.case_study.online import Online
from infra.evaluation.case_study.report import write_report
from infra.evaluation.case_study.rows import PROMISES, Measured
from infra.evaluation.case_study.section import Found, Section, measure_all
from infra.evaluation.case_study.served import Size
from infra.evaluation.case_study.steps import Steps
from infra.evaluation.case_study.storage import Lake
from infra.evaluation.case_study.training import Training
from infra.evaluation.case_study.under_load import UnderLoad
from infra.evaluation.case_study.updates import Updates
from recsys.contracts.errors import InvalidConfig
from recsys.result import Goal, Result

STORED = "sections"  # folder of what an interrupted study has measured


@dataclass(frozen=True)
class CaseStudy:
    """`out`: folder of the report. `is_part`: not all rows are wanted."""

    out: Path
    seed: int
    sections: Sequence[Section]
    is_part: bool = False

    @classmethod
    def of(
        cls,
        home: Path,
        out: Path,
        seed: int,
        data: Path | None = None,
        quick: bool = False,
        items: int | None = None,
    ) -> "CaseStudy":
        """`home`: has the ladder, if `recsys train ladder` was run. `data`: folder of real data sets. `quick`: the same
        rankers and code with fewer items, users, events and seconds. `items`: in the catalogue that is served, and in
        the bundles that are sent to hosts."""
        ladder, networks = home / "work" / "ladder", home / "work" / "case-study"
        funnel = Funnel(data, out / "evaluate", seed, is_quick=quick)
        sections: Sequence[Section]
        if quick:
            size = Size(items=items or 20_000, users=20_000, history_events=20_000, seed=seed)
            sections = [
                Models(ladder, networks, seed, calls=40),
                Lake(seed, users=300, items=500, days=3),
                Online(seed, events=20_000, users=300, items=1_000),
                Updates(networks, seed, items=size.items),
                Training(seed, users=150, items=500, days=7),
                Effect.quick(seed),
                Exploring.quick(seed),
                funnel,
                UnderLoad(networks, size, first_rates=(6.0, 40.0), step=1.5, step_s=3.0, steady_s=12.0),
                Steps(networks, ladder, size, seconds=8.0),
            ]
        else:
            size = Size(items=items or Size.items, seed=seed)
            sections = [
                Models(ladder, networks, seed),
                Lake(seed),
                Online(seed),
                Updates(networks, seed, items=size.items),
                Training(seed),
                Effect(seed),
                Ablation(seed),
                Exploring(seed),
                funnel,
                UnderLoad(networks, size),
                Steps(networks, ladder, size),
            ]
        return cls(out, seed, sections)

    def only(self, names: Sequence[str]) -> "CaseStudy":
        """The sections of these names.

        Raises:
            InvalidConfig: there is no such section.
        """
        known = {section.name: section for section in self.sections}
        if unknown := [name for name in names if name not in known]:
            raise InvalidConfig(f"no section {', '.join(unknown)}; there are {', '.join(known)}")
        return replace(self, sections=[known[name] for name in dict.fromkeys(names)], is_part=True)


def run(study: CaseStudy, fresh: bool = False) -> Result:
    """Measure, and write `report.md`, `report.html` and `results.json`. An interrupted run resumes unless `fresh`; a
    finished one starts from scratch.

    Raises:
        Unavailable: a server or process does not start.
    """
    stored = study.out / STORED
    if fresh:
        shutil.rmtree(stored, ignore_errors=True)
    found = measure_all(study.sections, stored)
    result = _result(study, found)
    write_report(study.out, result, found, study.is_part)
    shutil.rmtree(stored, ignore_errors=True)
    return result


def _result(study: CaseStudy, found: Mapping[str, Found]) -> Result:
    measured = [row for each in found.values() for row in each.rows]
    whole = {row.row: row for row in measured if not row.part}
    missing = [] if study.is_part else [promise.row for promise in PROMISES if promise.row not in whole]
    missed = [p.row for p in PROMISES if p.row in whole and not whole[p.row].met(p)]
    figures: dict[str, float] = {
        "rows": len(whole) if study.is_part else len(PROMISES),
        "rows_not_measured": len(missing),
        "rows_missed": len(missed),
    }
    for promise in PROMISES:
        if row := whole.get(promise.row):
            figures |= {
                f"{promise.row}_before": row.before,
                f"{promise.row}_after": row.after,
                f"{promise.row}_change": row.change,
            }
    figures |= {f"{_name(row)}_change": row.change for row in measured if row.part}
    for row in measured:
        if row.interval:
            figures |= {f"{_name(row)}_low": row.interval[0], f"{_name(row)}_high": row.interval[1]}
    return Result("case-study", study.seed, figures, {"rows_not_measured": Goal("==", 0)})


def _name(row: Measured) -> str:
    return "_".join([row.row, *row.part.lower().split()])
