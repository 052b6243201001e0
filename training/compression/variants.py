"""What a ladder leaves: one folder a variant, each a publishable work folder, and which of them is served."""

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
from training.warm_start import WEIGHTS

VARIANTS = ("teacher", "student", "unstructured", "pruned", "rows-fp16", "rows-int8", "rows-int4", "int8")
ONNX, VARIANT, SHAPE = "ranker.onnx", "variant.json", "shape.json"
_BUNDLED = (ONNX, "calibration.json", "golden.safetensors", "summary.json", HISTOGRAMS, VARIANT)


@dataclass(frozen=True)
class Variant:
    """One step: its size, its quality on the test rows (calibrated on validation), why it is refused if so."""

    name: str
    bytes: int
    metrics: Mapping[str, float]
    overlap: (
        float  # top 50 of 500 in common with the variant before quantization; 1 where nothing is quantized
    )
    reasons: tuple[str, ...]
    gated: bool = True  # False: stands in the table for comparison, never served


def save_trained(ranker: Ranker, folder: Path) -> None:
    """The weights of a variant that was trained, and its shape: enough to build it again without the data."""
    save_file({name: weight.contiguous() for name, weight in ranker.state_dict().items()}, folder / WEIGHTS)
    (folder / SHAPE).write_text(json.dumps(asdict(ranker.config), indent=2), encoding="utf-8")


def trained_ranker(folder: Path) -> Ranker:
    """The torch model of a variant that was trained (teacher, student), from its files alone."""
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
    """Refuse a variant that its gate has refused. A folder that is no variant (`recsys train rank`) has no gate.

    Raises:
        InvalidBundle: with the reasons.
    """
    if (folder / VARIANT).exists():
        variant = read_variant(folder)
        if not variant.gated:
            raise InvalidBundle(f"{variant.name} is for comparison only; publish another variant")
        refuse(variant.name, list(variant.reasons))


def take(variant: Path, work: Path) -> None:
    """Replace `work` by what a bundle needs of a variant, and by the weights that a nightly update starts from.

    Raises:
        InvalidBundle: the variant failed its gate, or lacks a file.
    """
    check_publishable(variant)
    missing = [name for name in _BUNDLED if not (variant / name).exists()]
    if missing:
        raise InvalidBundle(
            f"{variant}: lacks {', '.join(missing)}; build it with `recsys train ladder --fresh`"
        )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name in _BUNDLED:
        shutil.copyfile(variant / name, work / name)
    # fewer bits are made of the pruned variant's weights
    trained = variant if (variant / WEIGHTS).exists() else variant.parent / "pruned"
    for name in (WEIGHTS, SHAPE):
        if (trained / name).exists():
            shutil.copyfile(trained / name, work / name)


def served(variants: list[Variant]) -> Variant:
    """The smallest variant that passed its gate.

    Raises:
        InvalidBundle: none but the teacher passed; says why.
    """
    found = candidate(variants)
    if found.reasons:
        refused = [variant for variant in variants if variant.gated and variant.reasons]
        refuse(
            "every variant",
            [f"{variant.name}: {reason}" for variant in refused for reason in variant.reasons],
        )
    return found


def candidate(variants: list[Variant]) -> Variant:
    """What a report is about: the served variant, or the smallest refused one when no gate was passed."""
    gated = [variant for variant in variants if variant.gated]
    passed = [variant for variant in gated if not variant.reasons and variant.name != "teacher"]
    return min(passed or gated, key=lambda variant: variant.bytes)


def published(variants: list[Variant]) -> Variant:
    """What `recsys train rank --compress` publishes: the smallest that passed its gate, else the teacher."""
    found = candidate(variants)
    return variants[0] if found.reasons else found


def read_variants(out: Path) -> list[Variant]:
    """The variants that a ladder has left in `out`, in the order of `VARIANTS`."""
    return [read_variant(out / name) for name in VARIANTS if (out / name / VARIANT).exists()]


def read_variant(folder: Path) -> Variant:
    """
    Raises:
        InvalidData: there is no variant in the folder.
    """
    try:
        content: dict[str, Any] = json.loads((folder / VARIANT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidData(f"{folder}: no variant of a ladder; build it with `recsys train ladder`") from None
    return Variant(**{**content, "reasons": tuple(content["reasons"])})
