"""What the Data & models view shows, from files in the home folder.

`lake/import-report.json`, `work/*/summary.json`, and every result saved in `results/`
(`recsys evaluate recall --json > var/results/recall.json`).
"""

import json
from pathlib import Path
from typing import Any, TypeVar

import orjson
import structlog
from pydantic import BaseModel, Field, ValidationError

from recsys.contracts.errors import InvalidData
from recsys.operator_files import read_text

IMPORT_REPORT = "import-report.json"
RESULTS = "results"
_MAX_BYTES = 4 << 20  # larger files are not results
M = TypeVar("M", bound=BaseModel)
_log = structlog.get_logger(__name__)


class Epoch(BaseModel):
    """One epoch of a training; `validation` by metric."""

    epoch: int
    loss: float | None = None
    validation: dict[str, float | None] = {}


class Training(BaseModel):
    """The latest training of one model in this home, not necessarily the served one."""

    model: str
    metrics: dict[str, float | None] = {}
    curve: list[Epoch] = []


class SavedResult(BaseModel):
    """One result of `recsys bench`, `evaluate`, `report` or `drill`, as its `--json` gives it."""

    file: str
    command: str
    met: bool
    figures: dict[str, float | None]
    goals: dict[str, Any] = {}
    hardware: dict[str, Any] = {}


class ModelsState(BaseModel):
    data: dict[str, Any] | None = Field(description="the import's validation report")
    trainings: list[Training]
    results: list[SavedResult]


def models_state(home: Path, lake: Path) -> ModelsState:
    """What is missing or cannot be read is left out."""
    data = _read(lake / IMPORT_REPORT)
    summaries = sorted((home / "work").glob("*/summary.json"))
    trainings = (_valid(path, Training, {"model": path.parent.name}, needs="metrics") for path in summaries)
    saved = sorted((home / RESULTS).glob("*.json"))
    results = (_valid(path, SavedResult, {"file": path.name}) for path in saved)
    return ModelsState(
        data=data if isinstance(data, dict) else None,
        trainings=[training for training in trainings if training],
        results=[result for result in results if result],
    )


def _valid(path: Path, kind: type[M], more: dict[str, str], needs: str = "") -> M | None:
    content = _read(path)
    if not isinstance(content, dict) or (needs and needs not in content):
        return None
    try:
        return kind.model_validate({**content, **more})
    except ValidationError as error:
        _log.warning("left out", path=str(path), wanted=kind.__name__, problems=error.error_count())
        return None


def _read(path: Path) -> Any:
    try:
        text = read_text(path, InvalidData, _MAX_BYTES)
        content = json.loads(text, parse_constant=lambda name: None)  # standard JSON has no NaN
        orjson.dumps(content)  # as the response does
        return content
    except (OSError, InvalidData, ValueError, TypeError, RecursionError):
        return None
