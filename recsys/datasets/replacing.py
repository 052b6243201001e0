"""What an import may replace: the earlier import of the same source, and not by much less."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from recsys.contracts.errors import InvalidData
from recsys.datasets.report import ImportReport
from recsys.lake.lake import EVENTS, files_of
from recsys.operator_files import read_json

_KEPT = 0.9  # of the earlier rows; fewer need the caller's word
_SAY_SO = "pass --replace if that is meant"


def report_path(lake: Path, dataset: str) -> Path:
    """The report of the data set's latest import."""
    return lake / "imports" / f"{dataset}.json"


@dataclass(frozen=True)
class Earlier:
    """The data set's earlier import, if any."""

    source: str = ""  # where it was; empty: unknown
    rows: Mapping[str, int] | None = None  # by table; None: there was none


class _Tally(msgspec.Struct):
    kept: int


class _Report(msgspec.Struct):
    """What is needed of an `ImportReport`."""

    source: str
    events: int
    files: dict[str, dict[str, _Tally]]  # table → file


def earlier_import(lake: Path, dataset: str) -> Earlier:
    """Raises `InvalidData`: the earlier report cannot be read."""
    try:
        report = read_json(report_path(lake, dataset), _Report, InvalidData)
    except FileNotFoundError:  # the import was made before there were such reports
        files = files_of(lake, EVENTS, f"import-{dataset}")
        return Earlier(
            rows={EVENTS: sum(pq.read_metadata(file).num_rows for file in files)} if files else None
        )
    except InvalidData as error:
        raise InvalidData(f"not the report of an import: {error}; remove the file") from error
    kept = {table: sum(tally.kept for tally in files.values()) for table, files in report.files.items()}
    return Earlier(report.source, kept | {EVENTS: report.events})


def refuse_another_source(earlier: Earlier, dataset: str, source: str) -> None:
    """Raises `InvalidData`: the name belongs to the import of something else."""
    if earlier.source and earlier.source != source:
        raise InvalidData(
            f"the lake has a data set {dataset} from {earlier.source}; this one is {source}. "
            f"Give it a name of its own with --name; if it is the same one, {_SAY_SO}"
        )


def refuse_nothing(earlier: Earlier, report: ImportReport) -> None:
    """Raises `InvalidData`: no row of a table is valid, or there is no event where there were some."""
    for table, files in report.files.items():
        rows = sum(tally.rows for tally in files.values())
        if rows and not report.kept_rows(table):
            first = "; ".join(str(row) for row in report.first_broken if row.file in files)
            raise InvalidData(
                f"every row of {table} is broken ({rows:,}); the lake is unchanged. First: {first}. "
                "Correct the mapping or the data; `recsys data validate` lists the reasons"
            )
    had_events = bool(earlier.rows and earlier.rows.get(EVENTS))
    has_others = bool(report.kept_rows("items") or report.kept_rows("users"))
    if not report.kept_rows(EVENTS) and (had_events or not has_others):
        raise InvalidData(
            f"{', '.join(report.files[EVENTS])}: no events; the lake is unchanged. Is the export complete?"
        )


def refuse_losses(earlier: Earlier, report: ImportReport) -> None:
    """Raises `InvalidData`: more than a tenth of the earlier rows of a table would be lost."""
    now = {table: report.kept_rows(table) for table in report.files} | {EVENTS: report.events}
    for table, before in (earlier.rows or {}).items():
        if now.get(table, 0) < _KEPT * before:
            raise InvalidData(
                f"{table}: {before:,} rows were imported before, now there are {now.get(table, 0):,}; "
                f"the lake is unchanged; {_SAY_SO}"
            )
