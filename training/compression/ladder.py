"""The compression ladder: every variant measured, none published that lost quality (gates: docs/ranking.md).

    teacher       fp32, DIN and PLE, one row per item                the quality to preserve
    student       distilled; user part once, hashed item rows        gate against the teacher
    unstructured  half of the student's weights zeroed               for comparison only: no gain in a dense kernel
    pruned        the experts' weakest units removed, fine-tuned     gate against the teacher
    rows-fp16     pruned, embedding rows in 16 bits                  gate against pruned
    rows-int8     pruned, embedding rows in 8 bits                   gate against pruned
    rows-int4     pruned, embedding rows in 4 bits                   gate against pruned
    int8          rows-int8, matrix products in 8 bits too           gate against pruned
    compiled      rows-int8, dense weights in 16 bits, compiled code gate against pruned

Each variant is a work folder that can be published. Trained weights are stored, so an interrupted ladder continues
where it stopped.
"""

import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Head
from recsys.features.drift import HISTOGRAMS, Histogram, sampled_histograms, write_histograms
from recsys.models.ranker import Ranker, RankerConfig, RankerLogits
from recsys.native import MISSING, core
from recsys.ranking.calibration import calibrate, write_calibrations
from recsys.ranking.compiled import ExportedRanker, open_ranker
from recsys.ranking.scorer import RankerSession
from recsys.ranking.uncertainty import write_uncertainty
from recsys.result import to_json
from training.compression.distill import WEIGHT, distillation
from training.compression.gates import Scores, quantization_gate, student_gate, top_overlap
from training.compression.ladder_input import LadderInput
from training.compression.quantize import (
    half_weights,
    prune_experts,
    quantize_linear_layers,
    quantized_tables,
    zero_smallest,
)
from training.compression.variants import COMPILED, Variant, ranked_with
from training.config import Config
from training.ranker.artifacts import CALIBRATION, GOLDEN, ONNX, SUMMARY, save_trained
from training.ranker.calibrate import fit_calibrations
from training.ranker.dataset import RankExamples
from training.ranker.export import export_ranker
from training.ranker.fit_taste import keep_taste
from training.ranker.fit_uncertainty import fit_uncertainty
from training.ranker.kernel import is_compilable, write_kernel
from training.ranker.loop import LoopConfig, fit, predict, predict_logits
from training.ranker.train import figures
from training.seeding import seed_everything
from training.warm_start import WEIGHTS

REQUESTS, CANDIDATES = 40, 500  # over which top-50 overlap is measured
IDENTITY = "ladder.json"
_ROWS = (("rows-fp16", 16), ("rows-int8", 8), ("rows-int4", 4))

Scorer = Callable[[RankExamples], Scores]
Report = Callable[[str], None]

_TEACHER = RankerConfig(
    width=64,
    field_width=64,
    attention="din",
    attention_hidden=64,
    shared_experts=4,
    own_experts=1,
    expert_layers=(384, 192),
    tower_layers=(64,),
    cross_layers=3,
    cross_rank=64,
)
STUDENT = RankerConfig(
    width=16,
    item_buckets=65_536,
    attention="dot",
    attention_heads=1,
    curve_width=0,
    shared_experts=1,
    expert_layers=(64, 32),
    tower_layers=(),
    cross_layers=1,
    cross_rank=16,
    dropout=0.0,
)
_TEACHER_LOOP = LoopConfig(epochs=2, learning_rate=1e-3)
_TUNING_LOOP = LoopConfig(epochs=4, learning_rate=1e-3, weight_decay=1e-2, embedding_decay=0.3)
_STUDENT_LOOP = _TUNING_LOOP.replace(epochs=10, learning_rate=3e-3, patience=4)


class LadderConfig(Config):
    """Both ends of the ladder and the steps between."""

    out: Path = Field(description="One folder per variant.")
    teacher: RankerConfig = Field(_TEACHER, description="Shape of the large ranker.")
    student: RankerConfig = Field(STUDENT, description="Shape of the small one.")
    teacher_loop: LoopConfig = Field(_TEACHER_LOOP, description="Training of the teacher.")
    student_loop: LoopConfig = Field(_STUDENT_LOOP, description="Distillation of the student.")
    tuning_loop: LoopConfig = Field(_TUNING_LOOP, description="Fine-tuning after pruning.")
    distillation: float = Field(WEIGHT, ge=0, le=1, description="Weight of the teacher's answers.")
    pruned_share: float = Field(0.25, ge=0, lt=1, description="Of each expert's hidden units.")
    zeroed_share: float = Field(0.5, ge=0, lt=1, description="Of the weights, unstructured.")
    seed: int = Field(0, ge=0, description="Of every training; the loops' own seeds are not used.")
    threads: int = Field(1, ge=1, description="Of torch.")
    compared: bool = Field(True, description="Also build the variants that do not lead to int8.")


def main(config: LadderConfig, given: LadderInput, report: Report = lambda line: None) -> list[Variant]:
    """Build what is missing and return the variants in the order of `VARIANTS`.

    Args:
        report: receives one line per finished variant.

    Raises:
        InvalidConfig: `out` holds a ladder of another configuration or other data.
    """
    ladder = _Ladder(config, given, report)
    of_teacher = ladder.add("teacher", ladder.teacher)

    student = Ranker(given.shape(config.student), given.student_data)
    student = ladder.distilled("student", student, config.student_loop)
    ladder.add("student", student, student_of=of_teacher)
    if config.compared:
        ladder.add("unstructured", zero_smallest(student, config.zeroed_share))

    pruned = prune_experts(student, config.pruned_share)
    pruned = ladder.distilled("pruned", pruned, config.tuning_loop)
    of_pruned = ladder.add("pruned", pruned, student_of=of_teacher)

    for name, bits in _ROWS if config.compared else _ROWS[1:2]:
        ladder.add(name, quantized_tables(pruned, bits), quantized_from=of_pruned)
    ladder.add("int8", None, quantized_from=of_pruned)
    rows = quantized_tables(pruned, 8)
    if core is None or not is_compilable(rows):
        report(f"compiled: left out: {MISSING or 'another shape of student than compiled code knows'}")
    else:
        ladder.add(COMPILED, half_weights(rows), quantized_from=of_pruned, compiled=True)
    return ladder.variants


def train_teacher(config: LadderConfig, given: LadderInput) -> Ranker:
    """Train the teacher alone, or read it back."""
    return _Ladder(config, given, lambda line: None).teacher


class _Ladder:
    """What the variants have in common: the data, the teacher and its answers, and the way a variant is judged."""

    def __init__(self, config: LadderConfig, given: LadderInput, report: Report) -> None:
        torch.set_num_threads(config.threads)
        seed_everything(config.seed)
        _claim(config, given)
        self.config, self.given, self.report = config, given, report
        self.variants: list[Variant] = []

    @cached_property
    def teacher(self) -> Ranker:
        ranker = Ranker(self.given.shape(self.config.teacher), self.given.teacher_data)
        return self._trained("teacher", ranker, self.config.teacher_loop, None)

    @cached_property
    def answers(self) -> RankerLogits:
        """The teacher's logits of every training row; computed only when something is distilled."""
        return predict_logits(self.teacher, self.given.train, as_served=False)

    @cached_property
    def histograms(self) -> list[Histogram]:
        """Of the training features, which all variants share."""
        return sampled_histograms(self.given.without_offset, self.config.seed)

    def distilled(self, name: str, model: Ranker, loop: LoopConfig) -> Ranker:
        """Train on the labels and the teacher's answers."""
        return self._trained(name, model, loop, self.config.distillation)

    def _trained(self, name: str, model: Ranker, loop: LoopConfig, weight: float | None) -> Ranker:
        """Train, or read back what an earlier run has trained; an interrupted training continues."""
        folder = self.config.out / name
        if (folder / WEIGHTS).exists():
            model.load_state_dict(load_file(folder / WEIGHTS))
            return model.eval()
        folder.mkdir(parents=True, exist_ok=True)
        loop = loop.replace(seed=self.config.seed)
        objective = None if weight is None else distillation(self.answers, loop, weight)
        checkpoints = folder / "checkpoint.safetensors"
        fit(model, self.given.train, self.given.validation, loop, objective, checkpoints)
        save_trained(model, folder)
        return model.eval()

    def add(
        self,
        name: str,
        model: Ranker | None,
        student_of: Scores | None = None,
        quantized_from: Scores | None = None,
        compiled: bool = False,
    ) -> Scores:
        """Export the model (None: quantize the export of `rows-int8`), score it as served, gate it.

        What failed a gate fails it in fewer bits, too: quantized variants inherit the reasons of `pruned`.
        """
        given, config, folder = self.given, self.config, self.config.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if model is None:
            quantize_products(folder.parent / "rows-int8", folder)
        else:
            data, length = given.student_data, given.train.history.shape[1]
            golden = export_ranker(model, folder / ONNX, data.n_items, data.n_features, length, config.seed)
            save_arrays(golden, folder / GOLDEN)
            if compiled:
                write_kernel(model, folder)
        if model is None or compiled:
            scorer: Scorer = partial(row_scores, open_ranker(folder))
        else:  # torch scores as its export does, which has just been checked, and in larger batches
            scorer = partial(predict, model)
        scores = _calibrated(scorer, given, folder)
        overlap, reasons = 1.0, []
        if student_of is not None:
            reasons = student_gate(scores, student_of, given.test)
        if quantized_from is not None:
            overlap = _overlap(folder, folder.parent / "pruned", given)
            reasons = quantization_gate(scores, quantized_from, given.test, overlap)
            pruned = next(variant for variant in self.variants if variant.name == "pruned")
            reasons += [f"pruned, which it is made of: {reason}" for reason in pruned.reasons]
        write_histograms(folder / HISTOGRAMS, self.histograms)
        keep_taste(given.taste, folder)
        size, metrics = ranked_with(folder).stat().st_size, figures(scores, given.test)
        variant = Variant(name, size, metrics, overlap, tuple(reasons), name != "unstructured")
        variant.write(folder)
        trained = {"variant": name, **config.model_dump(mode="json")}
        summary = {"config": trained, "metrics": metrics, "seed": config.seed}
        (folder / SUMMARY).write_text(to_json(summary, indent=2), encoding="utf-8")
        self.variants.append(variant)
        self.report(_line(variant))
        return scores


def _claim(config: LadderConfig, given: LadderInput) -> None:
    """Note what the ladder is built from; trained weights are read back only for the same configuration and data."""
    # neither where it lies, nor on how many threads, nor with which other variants
    content = config.model_dump(mode="json", exclude={"out", "threads", "compared"})
    content |= {"rows": len(given.train), "last_ms": int(given.train.time_ms[-1])}
    wanted = json.dumps(content, indent=2)
    path = config.out / IDENTITY
    if path.exists() and path.read_text(encoding="utf-8") != wanted:
        raise InvalidConfig(
            f"{config.out}: a ladder of another configuration or data; start from scratch with `--fresh`"
        )
    config.out.mkdir(parents=True, exist_ok=True)
    path.write_text(wanted, encoding="utf-8")


def quantize_products(source: Path, folder: Path) -> None:
    """Write `source`'s model with matrix products in 8 bits, and the golden arrays of the new model."""
    quantize_linear_layers(source / ONNX, folder / ONNX)
    golden = load_arrays(source / GOLDEN)
    inputs = {n.removeprefix("ranker/in/"): a for n, a in golden.items() if n.startswith("ranker/in/")}
    found = RankerSession(folder / ONNX).run(inputs)
    save_arrays(golden | {f"ranker/out/{head}": scores for head, scores in found.items()}, folder / GOLDEN)


def score_requests(ranker: ExportedRanker, test: RankExamples) -> NDArray[np.float32]:
    """(REQUESTS, CANDIDATES) expected clicks and conversions of users of the test rows, each with random items and
    feature rows, ranked in one call as serving does."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, len(test), REQUESTS)
    rows = rng.integers(0, len(test), (REQUESTS, CANDIDATES))
    found = [ranker.run(_request(test, u, r)) for u, r in zip(users, rows, strict=True)]
    return np.stack([scores[Head.CLICK] * (1 + scores[Head.CONVERSION]) for scores in found])


def _request(test: RankExamples, user: int, rows: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
    return {
        "history": test.history[user : user + 1].astype(np.int64),
        "types": test.types[user : user + 1].astype(np.int64),
        "gaps": test.gaps[user : user + 1].astype(np.int64),
        "items": test.items[rows],
        "features": test.features[rows],
        "position": np.zeros(len(rows), np.int64),
    }


def row_scores(ranker: ExportedRanker, examples: RankExamples) -> Scores:
    """Scores of an exported ranker, row by row: each row has its own history."""
    found = [ranker.run(_request(examples, i, np.array([i]))) for i in range(len(examples))]
    return {head: np.concatenate([row[head] for row in found]) for head in Head}


def _calibrated(scorer: Scorer, given: LadderInput, folder: Path) -> Scores:
    """Scores of the test rows, calibrated on the validation rows: each variant is calibrated by itself."""
    raw = scorer(given.validation)
    calibrations = fit_calibrations(raw, given.validation, given.train)
    write_calibrations(folder / CALIBRATION, calibrations)
    write_uncertainty(folder, fit_uncertainty(calibrate(raw, calibrations)[Head.CLICK], given.validation))
    return calibrate(scorer(given.test), calibrations)


def _overlap(folder: Path, reference: Path, given: LadderInput) -> float:
    ours, theirs = (score_requests(open_ranker(f), given.test) for f in (folder, reference))
    return top_overlap(ours, theirs)


def _line(variant: Variant) -> str:
    verdict = "" if variant.gated else " (comparison)"
    verdict = f" refused: {'; '.join(variant.reasons)}" if variant.reasons else verdict
    quality = f"click AUC {variant.metrics['click_auc']:.4f}, overlap {variant.overlap:.3f}"
    return f"{variant.name}: {variant.bytes / 1e6:.2f} MB, {quality}{verdict}"
