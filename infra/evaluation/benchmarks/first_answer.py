"""`recsys bench first-answer`: seconds by the clock from `recsys quickstart FOLDER` to the first personal list.

The command runs as a newcomer's would: a process of its own, an empty home, embedded servers, and tables that nobody
has described: a `mapping.yaml` next to them is left out. With small tables most of the time are the starts of Spark
and PyTorch.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local.children import recsys_command
from recsys.contracts.errors import InvalidData, Unavailable
from recsys.datasets.opening import MAPPING_FILE
from recsys.result import Goal, Result

EXAMPLES = tuple(Path("examples") / kind for kind in ("shop", "ratings", "sessions", "impressions"))
_WHOLE = "to the first list"  # the sum of the phases, by quickstart itself
_GOAL_S = 60


@dataclass(frozen=True)
class Answer:
    """seconds: from the start of the process to the list. outcome: what `recsys quickstart --json` prints."""

    seconds: float
    outcome: dict[str, Any]


def run(folders: Sequence[Path]) -> Result:
    """Figures, each after the folder's name: `s`, the seconds; the part of each phase that quickstart prints, by the
    first word of its name (`import_s`, …); `rest_s`, the start of Python and of the servers, and the guess; `items`,
    the length of the list.

    Raises:
        InvalidData: a folder does not exist.
        Unavailable: quickstart ended without a list; it has printed why.
    """
    if absent := [str(folder) for folder in folders if not folder.is_dir()]:
        raise InvalidData(f"no such folder: {', '.join(absent)}; name folders of tables")
    figures: dict[str, float] = {}
    goals: dict[str, Goal] = {}
    for folder in map(Path.resolve, folders):
        with tempfile.TemporaryDirectory(prefix="recsys-first-answer-") as home:
            tables = Path(home) / folder.name
            shutil.copytree(folder, tables, ignore=shutil.ignore_patterns(MAPPING_FILE))
            answer = first_answer(tables, Path(home) / "var")
        figures |= {f"{folder.name}_{name}": value for name, value in _figures(answer)}
        goals |= {f"{folder.name}_s": Goal("<=", _GOAL_S), f"{folder.name}_items": Goal(">", 0)}
    return Result("bench first-answer", 0, figures, goals)


def first_answer(tables: Path, home: Path) -> Answer:
    """Run quickstart until its first list, then let it stop. What it prints for people goes to standard error.

    Raises:
        Unavailable: it ended without a list.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RECSYS_")}
    command = recsys_command("quickstart", str(tables), "--once", "--json")
    began = time.monotonic()
    with subprocess.Popen(
        command, env=environ | {"RECSYS_HOME": str(home)}, stdout=subprocess.PIPE, text=True
    ) as quickstart:
        assert quickstart.stdout is not None  # noqa: S101 - a pipe
        line = quickstart.stdout.readline()
        seconds = time.monotonic() - began
        code = quickstart.wait()
    if code or not line:
        raise Unavailable(f"`recsys quickstart {tables.name}` ended with code {code}, see above")
    return Answer(seconds, json.loads(line))


def _figures(answer: Answer) -> Iterator[tuple[str, float]]:
    phases = {name: s for name, s in answer.outcome["seconds"].items() if name != _WHOLE}
    yield "s", answer.seconds
    for name, seconds in phases.items():
        yield f"{name.partition(' ')[0]}_s", seconds
    yield "rest_s", answer.seconds - sum(phases.values())
    yield "items", len(answer.outcome["before"])
