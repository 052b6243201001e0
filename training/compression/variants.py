"""What a ladder leaves: one publishable work folder per variant, and the choice of the one that is published."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from recsys.contracts.errors import InvalidBundle, InvalidData
from recsys.features.drift import HISTOGRAMS
from recsys.operator_files import read_json
from recsys.ranking.compiled import KERNEL
from recsys.ranking.taste import TASTE
from recsys.ranking.uncertainty import UNCERTAINTY
from recsys.result import to_json
from training.compression.gates import refuse
from training.ranker.artifacts import CALIBRATION, GOLDEN, ONNX, SHAPE, SUMMARY, VARIANT
from training.warm_start import WEIGHTS

COMPILED = "compiled"  # takes half of the smallest one's time, for .3 % more bytes
QUANTIZED = ("rows-fp16", "rows-int8", "rows-int4", "int8", COMPILED)
VARIANTS = ("teacher", "student", "unstructured", "pruned", *QUANTIZED)
_BUNDLED = (ONNX, CALIBRATION, GOLDEN, SUMMARY, HISTOGRAMS, VARIANT)


@dataclass(frozen=True)
class Variant:
    """One step of the ladder, with its quality on the test rows (calibrated on validation)."""

    name: str
    bytes: int  # of the file that a process ranks with
    metrics: Mapping[str, float]
    overlap: float  # of the top 50 of 500 with the variant before quantization; 1 where nothing is quantized
    reasons: tuple[str, ...]  # why it is refused
    gated: bool = True  # False: for comparison in the table, never published

    def write(self, folder: Path) -> None:
        (folder / VARIANT).write_text(to_json(asdict(self), indent=2), encoding="utf-8")


def ranked_with(folder: Path) -> Path:
    """The file that a process ranks with: weights for compiled code if the variant has some, else the graph."""
    return folder / KERNEL if (folder / KERNEL).exists() else folder / ONNX


def check_publishable(folder: Path) -> None:
    """Refuse a variant that failed its gate. A folder of `recsys train rank` is not a variant and has no gate.

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
    for name in (*_BUNDLED, *(name for name in (KERNEL, TASTE, UNCERTAINTY) if (variant / name).exists())):
        shutil.copyfile(variant / name, work / name)
    # quantized variants are made of the pruned one's weights
    trained = variant if (variant / WEIGHTS).exists() else variant.parent / "pruned"
    for name in (WEIGHTS, SHAPE):
        if (trained / name).exists():
            shutil.copyfile(trained / name, work / name)


def served(variants: list[Variant]) -> Variant:
    """The variant to serve: compiled if it passed its gate, else the smallest that did.

    Raises:
        InvalidBundle: none but the teacher passed; says why.
    """
    found = candidate(variants)
    if found.reasons:
        refused = [variant for variant in variants if variant.gated and variant.reasons]
        refuse("every variant", [f"{v.name}: {reason}" for v in refused for reason in v.reasons])
    return found


def candidate(variants: list[Variant]) -> Variant:
    """What a report is about: the served variant, or a refused one when none passed."""
    gated = [variant for variant in variants if variant.gated]
    passed = [variant for variant in gated if not variant.reasons and variant.name != "teacher"]
    return min(passed or gated, key=lambda variant: (variant.name != COMPILED, variant.bytes))


def published(variants: list[Variant]) -> Variant:
    """What `recsys train rank --compress` publishes: as `served`, else the teacher."""
    found = candidate(variants)
    return variants[0] if found.reasons else found


def read_variants(out: Path) -> list[Variant]:
    """The variants that a ladder has left in `out`, in the order of `VARIANTS`."""
    return [read_variant(out / name) for name in VARIANTS if (out / name / VARIANT).exists()]


class _Stored(msgspec.Struct):
    """A `Variant` as its file has it: null is an undefined metric."""

    name: str
    bytes: int
    metrics: dict[str, float | None]
    overlap: float
    reasons: tuple[str, ...]
    gated: bool = True


def read_variant(folder: Path) -> Variant:
    """
    Raises:
        InvalidData: there is no variant in the folder, or it is damaged.
    """
    try:
        stored = read_json(folder / VARIANT, _Stored, InvalidData)
    except FileNotFoundError:
        raise InvalidData(f"{folder}: no variant of a ladder; build it with `recsys train ladder`") from None
    metrics = {name: math.nan if value is None else value for name, value in stored.metrics.items()}
    return Variant(stored.name, stored.bytes, metrics, stored.overlap, stored.reasons, stored.gated)
