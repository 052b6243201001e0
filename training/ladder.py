"""The compression ladder: every rung measured, none spoiled.

    teacher       fp32, DIN and PLE, a row an item                   the quality to keep
    student       distilled; user part once, hashed item rows        gate against the teacher
    unstructured  half of the student's weights zeroed               for comparison only: no gain in a dense kernel
    pruned        the experts' weakest units removed, fine-tuned     gate against the teacher
    rows-int8     pruned, embedding rows in 8 bits                   gate against pruned
    rows-int4     pruned, embedding rows in 4 bits                   gate against pruned
    int8          rows-int8, matrix products in 8 bits too           gate against pruned

Each rung is a folder with `ranker.onnx`, its calibration and `rung.json`; trained weights are kept, so an
interrupted ladder goes on where it stopped. The smallest rung that passed its gate is what is served.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from recsys.models.compact import quantize_tables
from recsys.models.ranker import Ranker, RankerConfig, RankerData, RankerLogits
from recsys.rank.calibration import calibrate, write_calibrations
from recsys.rank.scorer import RankerSession
from recsys.types import Head
from training.calibrate import fit_calibrations
from training.compress import prune_experts, quantize_linear_layers, zero_smallest
from training.distill import Distillation, distillation
from training.export_ranker import export_ranker
from training.gates import quantization_gate, refuse, student_gate, top_overlap
from training.ladder_data import LadderData, make
from training.rank_dataset import RankExamples
from training.rank_loop import LoopConfig, fit, predict, predict_logits
from training.seeding import seed_everything
from training.train_ranker import figures, ranker_data

REQUESTS, CANDIDATES = 40, 500  # over which top-50 overlap is measured
RUNGS = ("teacher", "student", "unstructured", "pruned", "rows-int8", "rows-int4", "int8")
ONNX, RUNG, WEIGHTS = "ranker.onnx", "rung.json", "weights.safetensors"

Scores = dict[Head, NDArray[np.float32]]
Scorer = Callable[[RankExamples], Scores]


@dataclass(frozen=True)
class LadderConfig:
    """Both ends of the ladder and the steps between. `out` holds one folder a rung."""

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


@dataclass(frozen=True)
class LadderInput:
    """What the ladder stands on. The student sees `student_data`: the teacher's, with cheaper item fields."""

    train: RankExamples
    validation: RankExamples
    test: RankExamples
    teacher_data: RankerData
    student_data: RankerData


@dataclass(frozen=True)
class Rung:
    """One step: its size, its quality on the test rows (calibrated on validation), why it is refused if so."""

    name: str
    bytes: int
    metrics: Mapping[str, float]
    overlap: float  # top 50 of 500 in common with the rung before quantization; 1 where nothing is quantized
    reasons: tuple[str, ...]
    gated: bool = True  # False: stands in the table for comparison, never served


def synthetic_input(data: LadderData, config: LadderConfig) -> LadderInput:
    """Synthetic ids, cut by time 75 : 10 : 15. The student reads the category alone, as a byte."""
    world = make(data)
    rows, codes, sizes = world.examples, world.fields.codes, world.fields.sizes
    cuts = [0, int(len(rows) * 0.75), int(len(rows) * 0.85), len(rows)]
    train, validation, test = (rows.take(slice(a, b)) for a, b in pairwise(cuts))
    return LadderInput(
        train,
        validation,
        test,
        ranker_data(train, data.n_items, codes, sizes, config.teacher.bins),
        ranker_data(train, data.n_items, codes[:, :1].astype(np.uint8), sizes[:1], config.student.bins),
    )


def main(
    config: LadderConfig, given: LadderInput, report: Callable[[str], None] = lambda line: None
) -> list[Rung]:
    """Build what is missing and return every rung, in the order of `RUNGS`.

    Args:
        report: called with one line as each rung is done.
    """
    torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    rungs: list[Rung] = []

    def pruned_reasons() -> tuple[str, ...]:
        return next(rung.reasons for rung in rungs if rung.name == "pruned")

    def add(
        name: str, model: Ranker | None, against: Scores | None = None, quantized: bool = False
    ) -> Scores:
        """Export (or, for `int8`, quantize the exported) model, score it as served, gate it.

        What a gate has refused stays refused in fewer bits: quantized rungs inherit the reasons of `pruned`.
        """
        folder = config.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if model is None:
            quantize_linear_layers(config.out / "rows-int8" / ONNX, folder / ONNX)
        else:
            _export(model, folder, given, config.seed)
        # a torch model scores as its export does, which has just been checked, and in larger batches
        scorer = partial(onnx_scores, folder / ONNX) if model is None else partial(predict, model)
        scores = _calibrated(scorer, given, folder)
        overlap = _overlap(folder, config.out / "pruned", given) if quantized else 1.0
        reasons: list[str] = []
        if against is not None:
            reasons = (
                quantization_gate(scores, against, given.test, overlap)
                if quantized
                else student_gate(scores, against, given.test)
            )
        if quantized:
            reasons += [f"pruned, which it is made of: {reason}" for reason in pruned_reasons()]
        size = (folder / ONNX).stat().st_size
        rung = Rung(name, size, figures(scores, given.test), overlap, tuple(reasons), name != "unstructured")
        (folder / RUNG).write_text(json.dumps(asdict(rung), indent=2), encoding="utf-8")
        rungs.append(rung)
        report(_line(rung))
        return scores

    teacher = _trained(
        Ranker(config.teacher, given.teacher_data),
        config.out / "teacher",
        lambda model, path: fit(model, given.train, given.validation, config.teacher_loop, checkpoints=path),
    )
    of_teacher = add("teacher", teacher)

    @cache
    def answers() -> RankerLogits:
        return predict_logits(teacher, given.train, as_served=False)

    def distil(loop: LoopConfig) -> Callable[[Ranker, Path], object]:
        return lambda model, path: fit(
            model,
            given.train,
            given.validation,
            loop,
            distillation(answers(), loop, config.distillation),
            checkpoints=path,
        )

    student = Ranker(config.student, given.student_data)
    student = _trained(student, config.out / "student", distil(config.student_loop))
    add("student", student, of_teacher)
    add("unstructured", zero_smallest(student, config.zeroed_share))

    pruned = prune_experts(student, config.pruned_share)
    pruned = _trained(pruned, config.out / "pruned", distil(config.tuning_loop))
    of_pruned = add("pruned", pruned, of_teacher)

    add("rows-int8", quantized_tables(pruned, 8), of_pruned, quantized=True)
    add("rows-int4", quantized_tables(pruned, 4), of_pruned, quantized=True)
    add("int8", None, of_pruned, quantized=True)
    return rungs


def quantized_tables(ranker: Ranker, bits: int) -> Ranker:
    """A copy with its embedding rows in `bits` bits."""
    quantized = copy.deepcopy(ranker)
    quantize_tables(quantized, bits)
    return quantized


def trained_ranker(folder: Path, config: RankerConfig) -> Ranker:
    """The torch model of a rung that was trained (teacher, student), from its weights alone."""
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
    ranker = Ranker(config, data)
    ranker.load_state_dict(weights)
    return ranker.eval()


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
    found = [out / name / RUNG for name in RUNGS]
    return [Rung(**json.loads(path.read_text(encoding="utf-8"))) for path in found if path.exists()]


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


def _trained(model: Ranker, folder: Path, train: Callable[[Ranker, Path], object]) -> Ranker:
    """Train, or read back what an earlier run has trained; an interrupted training goes on from its checkpoint."""
    weights = folder / WEIGHTS
    if weights.exists():
        model.load_state_dict(load_file(weights))
        return model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    train(model, folder / "checkpoint.safetensors")
    save_file({name: weight.contiguous() for name, weight in model.state_dict().items()}, weights)
    return model.eval()


def _export(model: Ranker, folder: Path, given: LadderInput, seed: int) -> None:
    length = given.train.history.shape[1]
    data = given.student_data
    golden = export_ranker(model, folder / ONNX, data.n_items, data.n_features, length, seed)
    save_arrays(golden, folder / "golden.safetensors")


def onnx_scores(path: Path, examples: RankExamples) -> Scores:
    """Scores of an exported ranker, row by row: every row has a history of its own."""
    session = RankerSession(path)
    found = [session.run(_request(examples, i, np.array([i]))) for i in range(len(examples))]
    return {head: np.concatenate([row[head] for row in found]) for head in Head}


def _calibrated(scorer: Scorer, given: LadderInput, folder: Path) -> Scores:
    """Scores of the test rows, calibrated on the validation rows: each rung is calibrated for itself."""
    calibrations = fit_calibrations(scorer(given.validation), given.validation)
    write_calibrations(folder / "calibration.json", calibrations)
    return calibrate(scorer(given.test), calibrations)


def _overlap(folder: Path, reference: Path, given: LadderInput) -> float:
    ours, theirs = (score_requests(RankerSession(f / ONNX), given.test) for f in (folder, reference))
    return top_overlap(ours, theirs)


def _line(rung: Rung) -> str:
    verdict = "" if rung.gated else " (comparison)"
    verdict = f" refused: {'; '.join(rung.reasons)}" if rung.reasons else verdict
    quality = f"click AUC {rung.metrics['click_auc']:.4f}, overlap {rung.overlap:.3f}"
    return f"{rung.name}: {rung.bytes / 1e6:.2f} MB, {quality}{verdict}"
