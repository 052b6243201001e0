"""Train the ranker: examples → `ranker.onnx`, calibration and golden scores in a work folder.

The same seed and data give the same weights, also after an interruption.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic_core import to_jsonable_python
from safetensors.numpy import save_file

from recsys.contracts.types import Head, Item
from recsys.features.definitions import FEATURES
from recsys.features.drift import HISTOGRAMS, sampled_histograms, write_histograms
from recsys.items.item_table import read_items
from recsys.lake.lake import newest_days
from recsys.metrics import auc, calibration_error, gauc, xauc
from recsys.models.blocks import numeric_statistics
from recsys.models.ranker import Ranker, RankerConfig, RankerData
from recsys.ranking.calibration import calibrate, write_calibrations
from recsys.ranking.compiled import KERNEL
from recsys.ranking.uncertainty import write_uncertainty
from recsys.result import to_json
from training.config import Config
from training.ranker.artifacts import CALIBRATION, GOLDEN, ONNX, SUMMARY, VARIANT, save_trained
from training.ranker.calibrate import fit_calibrations
from training.ranker.clean import Cleaned, Cleaning, clean
from training.ranker.dataset import (
    ItemFields,
    RankExamples,
    item_fields,
    read_examples,
    rows_of_days,
    temporal_split,
)
from training.ranker.export import export_ranker
from training.ranker.fit_taste import Fitted, TasteOffsets, described, keep_taste, learn_taste
from training.ranker.fit_uncertainty import fit_uncertainty
from training.ranker.loop import LoopConfig, fit, predict
from training.seeding import seed_everything
from training.warm_start import WARM_START, WarmStart


class RankerTraining(Config):
    """Everything that decides a training run."""

    n_features: int = Field(description="D of the examples: `FEATURES.dimension`.")
    examples: Path = Field(description="Folder of the examples.")
    items: Path = Field(description="The item table, items.parquet.")
    out: Path = Field(description="Work folder for what a bundle needs.")
    checkpoints: Path = Field(description="Folder for the state of an interrupted run.")
    history_length: int = Field(50, ge=1, description="Newest events of each history.")
    item_attributes: tuple[str, ...] = Field((), description="To embed, besides categories and creator.")
    validation: float = Field(0.1, gt=0, lt=1, description="The latest share of the examples.")
    newest: int = Field(
        0, ge=0, description="Read only the newest days that have this many examples; 0: all."
    )
    taste: bool = Field(True, description="Whether a taste model is the offset of the click head.")
    model: RankerConfig = Field(RankerConfig(), description="Size of the model.")
    loop: LoopConfig = Field(LoopConfig(), description="How long and how fast.")
    cleaning: Cleaning | None = Field(None, description="What to remove from the training rows.")
    threads: int = Field(1, ge=1, description="Threads of torch; on a busy machine two are slower than one.")


@dataclass(frozen=True)
class RankerReport:
    """Validation figures of the best epoch; training rows that cleaning removed, by reason."""

    metrics: Mapping[str, float]
    epochs: int
    removed: Mapping[str, int]


def main(
    config: RankerTraining, report: Callable[[int, float], None] = lambda epoch, score: None
) -> RankerReport:
    """Train, calibrate the best epoch, export it.

    Args:
        report: called after each epoch with its number and validation score.

    Raises:
        InvalidData: the examples or the item table are missing or do not fit.
    """
    items = read_items(config.items)
    item_ids = [item.item_id for item in items]
    # of the training rows alone, so that the validation figures are not flattered
    fitted = (
        learn_taste(config.examples, items, 1 - config.validation, config.loop.seed) if config.taste else None
    )
    offset = TasteOffsets(fitted.taste, items) if fitted else None
    days = newest_days(rows_of_days(config.examples), config.newest) if config.newest else None
    examples = read_examples(
        config.examples, item_ids, config.n_features, config.history_length, days, offset
    )
    train, validation = temporal_split(examples, config.validation)
    return train_on(config, items, train, validation, fitted, report)


def train_on(
    config: RankerTraining,
    items: Sequence[Item],
    train: RankExamples,
    validation: RankExamples,
    fitted: Fitted | None,
    report: Callable[[int, float], None] = lambda epoch, score: None,
) -> RankerReport:
    """As `main`, on these rows, whose last features are the offsets of `fitted` if there is one."""
    torch.set_num_threads(config.threads)
    seed_everything(config.loop.seed)
    cleaned = clean(train, config.cleaning) if config.cleaning else Cleaned(train, {}, {})
    train = cleaned.examples

    facts = item_fields(items, config.item_attributes)
    shape = replace(config.model, offset=fitted is not None)
    ranker = Ranker(shape, ranker_data(train, len(items), facts.codes, facts.sizes, config.model.bins))
    curve: list[tuple[int, float]] = []

    def note(epoch: int, score: float) -> None:
        curve.append((epoch, score))
        report(epoch, score)

    checkpoints = config.checkpoints / f"ranker-{config.loop.seed}.safetensors"
    epochs = fit(ranker, train, validation, config.loop, checkpoints=checkpoints, report=note)

    metrics = write_ranker(ranker, train, validation, config.out, config.loop.seed)
    (config.out / WARM_START).unlink(missing_ok=True)  # an interrupted write leaves nothing to start from
    save_trained(ranker, config.out)
    ranker_warm_start(items, facts, config.item_attributes, train).write(config.out)
    keep_taste(fitted.taste if fitted else None, config.out)
    more = {
        "cleaning": {"removed": cleaned.removed, "corrected": cleaned.corrected},
        "taste": described(fitted),
    }
    write_summary(config.out, config, metrics, config.loop.seed, curve, more)
    return RankerReport(metrics, epochs, cleaned.removed)


def write_ranker(
    ranker: Ranker, train: RankExamples, validation: RankExamples, out: Path, seed: int
) -> dict[str, float]:
    """Write calibration, uncertainty, export and the training features' histograms. Returns the figures of the
    validation rows."""
    raw = predict(ranker, validation)
    calibrations = fit_calibrations(raw, validation, train)
    write_model(ranker, train.history.shape[1], out, seed)
    write_calibrations(out / CALIBRATION, calibrations)
    calibrated = calibrate(raw, calibrations)
    write_uncertainty(out, fit_uncertainty(calibrated[Head.CLICK], validation))
    write_histograms(out / HISTOGRAMS, sampled_histograms(train.features[:, : FEATURES.dimension], seed))
    return figures(calibrated, validation)


def write_model(ranker: Ranker, length: int, out: Path, seed: int) -> None:
    """Export the ranker for histories of this length, with its golden arrays."""
    out.mkdir(parents=True, exist_ok=True)
    # a variant of a ladder was here; and without a summary an interrupted training is not published as another one's
    for of_another in (KERNEL, VARIANT, SUMMARY):
        (out / of_another).unlink(missing_ok=True)
    golden = export_ranker(ranker, out / ONNX, ranker.data.n_items, ranker.data.n_features, length, seed)
    save_file(golden, out / GOLDEN)


def write_summary(
    out: Path,
    config: Any,
    metrics: Mapping[str, float],
    seed: int,
    curve: Sequence[tuple[int, float]],
    more: Mapping[str, Any] | None = None,
) -> None:
    """`summary.json`, as `training.publish` reads it. `config`: a dataclass or model; `curve`: (epoch, score)."""
    summary = {
        "config": config,
        "metrics": metrics,
        "seed": seed,
        "curve": [{"epoch": epoch, "validation": {"score": score}} for epoch, score in curve],
        **(more or {}),
    }
    (out / SUMMARY).write_text(to_json(to_jsonable_python(summary), indent=2), encoding="utf-8")


def ranker_warm_start(
    items: Sequence[Item], facts: ItemFields, attributes: Sequence[str], train: RankExamples, nights: int = 0
) -> WarmStart:
    """What the numbers in the ranker's weights mean."""
    agreed = {
        "feature fingerprint": FEATURES.fingerprint,
        "number of features": train.features.shape[1],
        "history length": train.history.shape[1],
        "item attributes": list(attributes),
    }
    ids = [item.item_id for item in items]
    return WarmStart(agreed, ids, int(train.time_ms[-1]), facts.values, nights)


def ranker_data(
    train: RankExamples, n_items: int, fields: NDArray[np.int64], field_sizes: tuple[int, ...], bins: int
) -> RankerData:
    """What the model stores of the training rows, and of nothing later."""
    mean, scale, edges = numeric_statistics(torch.from_numpy(train.features), bins)
    return RankerData(
        n_items=n_items,
        n_features=train.features.shape[1],
        mean=mean,
        scale=scale,
        edges=edges,
        fields=torch.from_numpy(fields),
        field_sizes=field_sizes,
    )


def labels_by_head(examples: RankExamples) -> dict[Head, NDArray[np.float32]]:
    """What each probability head predicts over all rows; conversion together with the click."""
    return {
        Head.CLICK: examples.label(Head.CLICK),
        Head.CONVERSION: examples.label(Head.CLICK) * examples.label(Head.CONVERSION),
        Head.LIKE: examples.label(Head.LIKE),
    }


def over_all_rows(scores: Mapping[Head, NDArray[np.float32]]) -> dict[Head, NDArray[np.float32]]:
    """The scores of `labels_by_head`: P(click) · P(conversion | click) for conversion."""
    return {**scores, Head.CONVERSION: scores[Head.CLICK] * scores[Head.CONVERSION]}


def figures(scores: Mapping[Head, NDArray[np.float32]], examples: RankExamples) -> dict[str, float]:
    """AUC, GAUC and calibration error per probability head, XAUC and mean absolute error of dwell.

    NaN where a figure is undefined: a head with a single label value has no AUC.
    """
    found: dict[str, float] = {}
    probabilities = over_all_rows(scores)
    for head, labels in labels_by_head(examples).items():
        happened, probability = (labels > 0).astype(np.int64), probabilities[head]
        found[f"{head}_auc"] = auc(happened, probability)
        found[f"{head}_gauc"] = gauc(happened, probability, examples.users)
        varies = 0 < happened.sum() < len(happened)
        found[f"{head}_calibration_error"] = calibration_error(happened, probability) if varies else math.nan
    seconds, predicted = np.expm1(examples.label(Head.DWELL)), np.expm1(scores[Head.DWELL])
    found["dwell_xauc"] = xauc(seconds, predicted)
    found["dwell_mae_s"] = float(np.abs(seconds - predicted).mean()) if seconds.any() else math.nan
    return found
