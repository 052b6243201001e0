"""The compression ladder: every variant measured, none spoiled.

    teacher       fp32, DIN and PLE, a row an item                   the quality to keep
    student       distilled; user part once, hashed item rows        gate against the teacher
    unstructured  half of the student's weights zeroed               for comparison only: no gain in a dense kernel
    pruned        the experts' weakest units removed, fine-tuned     gate against the teacher
    rows-fp16     pruned, embedding rows in 16 bits                  gate against pruned
    rows-int8     pruned, embedding rows in 8 bits                   gate against pruned
    rows-int4     pruned, embedding rows in 4 bits                   gate against pruned
    int8          rows-int8, matrix products in 8 bits too           gate against pruned

Each variant is a folder (`training.compression.variants`) that can be published as it is; trained weights are
kept, so an interrupted ladder goes on where it stopped. The smallest variant that passed its gate is what is served.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Head
from recsys.features.drift import HISTOGRAMS, Histogram, sampled_histograms, write_histograms
from recsys.models.ranker import Ranker, RankerConfig, RankerLogits
from recsys.ranking.calibration import calibrate, write_calibrations
from recsys.ranking.scorer import RankerSession
from training.compression.distill import Distillation, distillation
from training.compression.gates import quantization_gate, student_gate, top_overlap
from training.compression.ladder_input import LadderInput
from training.compression.quantize import (
    prune_experts,
    quantize_linear_layers,
    quantized_tables,
    zero_smallest,
)
from training.compression.variants import ONNX, VARIANT, Variant, save_trained
from training.ranker.calibrate import fit_calibrations
from training.ranker.dataset import RankExamples
from training.ranker.export import export_ranker
from training.ranker.loop import LoopConfig, fit, predict, predict_logits
from training.ranker.train import figures
from training.seeding import seed_everything
from training.warm_start import WEIGHTS

REQUESTS, CANDIDATES = 40, 500  # over which top-50 overlap is measured
_ROWS = (("rows-fp16", 16), ("rows-int8", 8), ("rows-int4", 4))
IDENTITY, GOLDEN = "ladder.json", "golden.safetensors"

Scores = dict[Head, NDArray[np.float32]]
Scorer = Callable[[RankExamples], Scores]


@dataclass(frozen=True)
class LadderConfig:
    """Both ends of the ladder and the steps between. `out` holds one folder a variant."""

    out: Path
    teacher: RankerConfig = field(
        default_factory=lambda: RankerConfig(
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
    )
    student: RankerConfig = field(
        default_factory=lambda: RankerConfig(
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
    )
    teacher_loop: LoopConfig = field(default_factory=lambda: LoopConfig(epochs=2, learning_rate=1e-3))
    student_loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            epochs=10, learning_rate=3e-3, weight_decay=1e-2, embedding_decay=0.3, patience=4
        )
    )
    tuning_loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            epochs=4, learning_rate=1e-3, weight_decay=1e-2, embedding_decay=0.3
        )
    )
    distillation: Distillation = field(default_factory=Distillation)
    pruned_share: float = 0.25
    zeroed_share: float = 0.5
    seed: int = 0
    threads: int = 1
    compared: bool = True  # False: only what lies on the way to int8, for a training that serves it


def main(
    config: LadderConfig, given: LadderInput, report: Callable[[str], None] = lambda line: None
) -> list[Variant]:
    """Build what is missing and return every variant that was asked for, in the order of `VARIANTS`.

    Args:
        report: called with one line as each variant is done.

    Raises:
        InvalidConfig: `out` holds a ladder of another configuration or other data.
    """
    torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    _claim(config, given)
    ladder = _Ladder(config, given, report)

    of_teacher = ladder.add("teacher", ladder.teacher)

    student = ladder.trained(
        "student", Ranker(config.student, given.student_data), ladder.distil(config.student_loop)
    )
    ladder.add("student", student, student_of=of_teacher)
    if config.compared:
        ladder.add("unstructured", zero_smallest(student, config.zeroed_share))

    pruned = prune_experts(student, config.pruned_share)
    pruned = ladder.trained("pruned", pruned, ladder.distil(config.tuning_loop))
    of_pruned = ladder.add("pruned", pruned, student_of=of_teacher)

    for name, bits in _ROWS if config.compared else _ROWS[1:2]:
        ladder.add(name, quantized_tables(pruned, bits), quantized_from=of_pruned)
    ladder.add("int8", None, quantized_from=of_pruned)
    return ladder.variants


def train_teacher(config: LadderConfig, given: LadderInput) -> Ranker:
    """The first step alone: train the teacher, or read it back."""
    torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    _claim(config, given)
    return _Ladder(config, given, lambda line: None).teacher


class _Ladder:
    """What the variants have in common: the data, the teacher and its answers, and the way a variant is judged."""

    def __init__(self, config: LadderConfig, given: LadderInput, report: Callable[[str], None]) -> None:
        self.config, self.given, self.report = config, given, report
        self.variants: list[Variant] = []

    @cached_property
    def teacher(self) -> Ranker:
        config, given = self.config, self.given

        def train(model: Ranker, path: Path) -> object:
            return fit(model, given.train, given.validation, config.teacher_loop, checkpoints=path)

        return self.trained("teacher", Ranker(config.teacher, given.teacher_data), train)

    @cached_property
    def answers(self) -> RankerLogits:
        """The teacher's logits of every training row, asked for once and only when something is distilled."""
        return predict_logits(self.teacher, self.given.train, as_served=False)

    @cached_property
    def histograms(self) -> list[Histogram]:
        """Of the training features: every variant was made from the same rows."""
        return sampled_histograms(self.given.train.features, self.config.seed)

    def distil(self, loop: LoopConfig) -> Callable[[Ranker, Path], object]:
        def train(model: Ranker, path: Path) -> object:
            objective = distillation(self.answers, loop, self.config.distillation)
            return fit(model, self.given.train, self.given.validation, loop, objective, checkpoints=path)

        return train

    def trained(self, name: str, model: Ranker, train: Callable[[Ranker, Path], object]) -> Ranker:
        """Train, or read back what an earlier run has trained; an interrupted training goes on from its
        checkpoint."""
        folder = self.config.out / name
        if (folder / WEIGHTS).exists():
            model.load_state_dict(load_file(folder / WEIGHTS))
            return model.eval()
        folder.mkdir(parents=True, exist_ok=True)
        train(model, folder / "checkpoint.safetensors")
        save_trained(model, folder)
        return model.eval()

    def add(
        self,
        name: str,
        model: Ranker | None,
        student_of: Scores | None = None,
        quantized_from: Scores | None = None,
    ) -> Scores:
        """Export the model (None: quantize the export of `rows-int8`), score it as served, gate it.

        What a gate has refused stays refused in fewer bits: quantized variants inherit the reasons of `pruned`.
        """
        given, folder = self.given, self.config.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if model is None:
            quantize_products(folder.parent / "rows-int8", folder)
        else:
            self._export(model, folder)
        # a torch model scores as its export does, which has just been checked, and in larger batches
        scorer = partial(onnx_scores, folder / ONNX) if model is None else partial(predict, model)
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
        size = (folder / ONNX).stat().st_size
        variant = Variant(
            name, size, figures(scores, given.test), overlap, tuple(reasons), name != "unstructured"
        )
        (folder / VARIANT).write_text(json.dumps(asdict(variant), indent=2), encoding="utf-8")
        shapes = {
            "variant": name,
            "teacher": asdict(self.config.teacher),
            "student": asdict(self.config.student),
        }
        summary = {"config": shapes, "metrics": variant.metrics, "seed": self.config.seed}
        (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
        self.variants.append(variant)
        self.report(_line(variant))
        return scores

    def _export(self, model: Ranker, folder: Path) -> None:
        length, data = self.given.train.history.shape[1], self.given.student_data
        golden = export_ranker(model, folder / ONNX, data.n_items, data.n_features, length, self.config.seed)
        save_arrays(golden, folder / GOLDEN)


def _claim(config: LadderConfig, given: LadderInput) -> None:
    """Note what the ladder is built from; trained weights are read back only for the same configuration and data."""
    content = asdict(config)
    del content["compared"]  # a variant is the same without those beside it
    content |= {"out": "", "threads": 0, "rows": len(given.train), "last_ms": int(given.train.time_ms[-1])}
    wanted = json.dumps(content, indent=2)
    path = config.out / IDENTITY
    if path.exists() and path.read_text(encoding="utf-8") != wanted:
        raise InvalidConfig(
            f"{config.out}: a ladder of another configuration or data; begin anew with `--fresh`"
        )
    config.out.mkdir(parents=True, exist_ok=True)
    path.write_text(wanted, encoding="utf-8")


def quantize_products(source: Path, folder: Path) -> None:
    """`source`'s model with matrix products in 8 bits, and its golden inputs with the outputs of the new model."""
    quantize_linear_layers(source / ONNX, folder / ONNX)
    golden = load_arrays(source / GOLDEN)
    inputs = {n.removeprefix("ranker/in/"): a for n, a in golden.items() if n.startswith("ranker/in/")}
    found = RankerSession(folder / ONNX).run(inputs)
    save_arrays(golden | {f"ranker/out/{head}": scores for head, scores in found.items()}, folder / GOLDEN)


def score_requests(session: RankerSession, test: RankExamples) -> NDArray[np.float32]:
    """(REQUESTS, CANDIDATES) expected clicks and conversions: users of the test rows, each with random items and
    feature rows of it, ranked in one call as serving does."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, len(test), REQUESTS)
    rows = rng.integers(0, len(test), (REQUESTS, CANDIDATES))
    return np.stack([_value(session.run(_request(test, u, r))) for u, r in zip(users, rows, strict=True)])


def _request(test: RankExamples, user: int, rows: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
    return {
        "history": test.history[user : user + 1].astype(np.int64),
        "types": test.types[user : user + 1].astype(np.int64),
        "gaps": test.gaps[user : user + 1].astype(np.int64),
        "items": test.items[rows],
        "features": test.features[rows],
        "position": np.zeros(len(rows), np.int64),
    }


def _value(scores: Scores) -> NDArray[np.float32]:
    return scores[Head.CLICK] * (1 + scores[Head.CONVERSION])


def onnx_scores(path: Path, examples: RankExamples) -> Scores:
    """Scores of an exported ranker, row by row: every row has a history of its own."""
    session = RankerSession(path)
    found = [session.run(_request(examples, i, np.array([i]))) for i in range(len(examples))]
    return {head: np.concatenate([row[head] for row in found]) for head in Head}


def _calibrated(scorer: Scorer, given: LadderInput, folder: Path) -> Scores:
    """Scores of the test rows, calibrated on the validation rows: each variant is calibrated for itself."""
    calibrations = fit_calibrations(scorer(given.validation), given.validation)
    write_calibrations(folder / "calibration.json", calibrations)
    return calibrate(scorer(given.test), calibrations)


def _overlap(folder: Path, reference: Path, given: LadderInput) -> float:
    ours, theirs = (score_requests(RankerSession(f / ONNX), given.test) for f in (folder, reference))
    return top_overlap(ours, theirs)


def _line(variant: Variant) -> str:
    verdict = "" if variant.gated else " (comparison)"
    verdict = f" refused: {'; '.join(variant.reasons)}" if variant.reasons else verdict
    quality = f"click AUC {variant.metrics['click_auc']:.4f}, overlap {variant.overlap:.3f}"
    return f"{variant.name}: {variant.bytes / 1e6:.2f} MB, {quality}{verdict}"
