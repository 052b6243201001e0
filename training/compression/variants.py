"""What a ladder leaves: one folder a rung, each a publishable work folder, and which of them is served."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from recsys.contracts.errors import InvalidBundle, InvalidConfig, InvalidData
from recsys.features.drift import HISTOGRAMS
from recsys.models.ranker import Ranker, RankerConfig, RankerData
from training.compression.gates import refuse

RUNGS = ("teacher", "student", "unstructured", "pruned", "rows-fp16", "rows-int8", "rows-int4", "int8")
ONNX, RUNG, WEIGHTS, SHAPE = "ranker.onnx", "rung.json", "weights.safetensors", "shape.json"


@dataclass(frozen=True)
class Rung:
    """One step: its size, its quality on the test rows (calibrated on validation), why it is refused if so."""

    name: str
    bytes: int
    metrics: Mapping[str, float]
    overlap: float  # top 50 of 500 in common with the rung before quantization; 1 where nothing is quantized
    reasons: tuple[str, ...]
    gated: bool = True  # False: stands in the table for comparison, never served


def save_trained(ranker: Ranker, folder: Path) -> None:
    """The weights of a rung that was trained, and its shape: enough to build it again without the data."""
    save_file({name: weight.contiguous() for name, weight in ranker.state_dict().items()}, folder / WEIGHTS)
    (folder / SHAPE).write_text(json.dumps(asdict(ranker.config), indent=2), encoding="utf-8")


def trained_ranker(folder: Path) -> Ranker:
    """The torch model of a rung that was trained (teacher, student), from its files alone."""
    weights = load_file(folder / WEIGHTS)
    fields = weights["fields"]
    data = RankerData(
        n_items=len(fields) - 1,
        n_features=len(weights["numeric_columns"]),
        mean=weights["numeric.mean"],
        scale=weights["numeric.scale"],
        edges=weights["numeric.edges"],
        fields=fields,
        field_sizes=tuple(len(weights[f"field.{i}.weight"]) for i in range(fields.shape[1])),
    )
    ranker = Ranker(read_shape(folder / SHAPE), data)
    ranker.load_state_dict(weights)
    return ranker.eval()


def read_shape(path: Path) -> RankerConfig:
    """
    Raises:
        InvalidConfig: the file is missing, or does not describe a ranker.
    """
    try:
        return shape_of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidConfig(
            f"{path}: no shape of a ranker, as `recsys tune rank` writes it: {error}"
        ) from error


def shape_of(content: Mapping[str, Any]) -> RankerConfig:
    """A configuration that was written as JSON, where tuples became lists."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return RankerConfig(**values)


def check_publishable(folder: Path) -> None:
    """Refuse a rung that its gate has refused. A folder that is no rung (`recsys train rank`) has no gate.

    Raises:
        InvalidBundle: with the reasons.
    """
    if (folder / RUNG).exists():
        rung = read_rung(folder)
        if not rung.gated:
            raise InvalidBundle(f"{rung.name} is for comparison only; publish another rung")
        refuse(rung.name, list(rung.reasons))


def take(rung: Path, work: Path) -> None:
    """Make a rung the ranker that `recsys train all` publishes: `work` becomes a copy of what a bundle needs of it,
    and of the weights that a night's update goes on from."""
    check_publishable(rung)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name in (ONNX, "calibration.json", "golden.safetensors", "summary.json", RUNG):
        shutil.copyfile(rung / name, work / name)
    trained = rung if (rung / WEIGHTS).exists() else rung.parent / "pruned"  # fewer bits are made of it
    for name in (WEIGHTS, SHAPE):
        if (trained / name).exists():
            shutil.copyfile(trained / name, work / name)
    if (
        rung / HISTOGRAMS
    ).exists():  # a ladder of an earlier version has none: served without a view of drift
        shutil.copyfile(rung / HISTOGRAMS, work / HISTOGRAMS)


def served(rungs: list[Rung]) -> Rung:
    """The smallest rung that passed its gate.

    Raises:
        InvalidBundle: none but the teacher passed; says why.
    """
    found = candidate(rungs)
    if found.reasons:
        refused = [rung for rung in rungs if rung.gated and rung.reasons]
        refuse("every rung", [f"{rung.name}: {reason}" for rung in refused for reason in rung.reasons])
    return found


def candidate(rungs: list[Rung]) -> Rung:
    """What a report is about: the served rung, or the smallest refused one when no gate was passed."""
    gated = [rung for rung in rungs if rung.gated]
    passed = [rung for rung in gated if not rung.reasons and rung.name != "teacher"]
    return min(passed or gated, key=lambda rung: rung.bytes)


def read_rungs(out: Path) -> list[Rung]:
    """The rungs that a ladder has left in `out`, in the order of `RUNGS`."""
    return [read_rung(out / name) for name in RUNGS if (out / name / RUNG).exists()]


def read_rung(folder: Path) -> Rung:
    """
    Raises:
        InvalidData: there is no rung in the folder.
    """
    try:
        content: dict[str, Any] = json.loads((folder / RUNG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidData(f"{folder}: no rung of a ladder; build it with `recsys train ladder`") from None
    return Rung(**{**content, "reasons": tuple(content["reasons"])})
