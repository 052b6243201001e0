"""The whole ladder on a small world, and gates that trip on spoiled variants."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from infra.evaluation.benchmarks import rank
from infra.evaluation.benchmarks.rank import RankBench
from infra.evaluation.reports.ladder import report
from recsys.contracts.errors import InvalidBundle, InvalidConfig, InvalidData
from recsys.contracts.types import Head
from recsys.features.drift import HISTOGRAMS, read_histograms
from recsys.metrics import auc
from recsys.models.ranker import Ranker
from recsys.ranking.compiled import KERNEL, open_ranker
from recsys.ranking.scorer import RankerSession
from tests.training.compression.ladder_fixture import LOOP, SMALL, config
from training.compression import ladder
from training.compression.gates import (
    auc_difference,
    gauc_difference,
    quantization_gate,
    refuse,
    student_gate,
    top_overlap,
)
from training.compression.ladder_input import LadderInput, synthetic_input
from training.compression.quantize import prune_experts, zero_smallest
from training.compression.synthetic import make
from training.compression.variants import QUANTIZED, VARIANTS, Variant, candidate, read_variants, served
from training.ranker.adversarial import Attack, attacked
from training.ranker.dataset import RankExamples
from training.ranker.loop import fit, inputs_of, ranking_loss


@pytest.fixture(scope="module")
def world() -> LadderInput:
    shapes = config(Path())
    return synthetic_input(SMALL, shapes.teacher, shapes.student)


@pytest.fixture(scope="module")
def built(world: LadderInput, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Variant]]:
    out = tmp_path_factory.mktemp("ladder")
    return out, ladder.main(config(out), world)


def test_a_pruned_student_can_be_trained_under_attack(world: LadderInput) -> None:
    """Its hashed rows are looked up as a teacher's are: an attack finds them, and training resists it."""
    shape, rows = world.shape(config(Path()).student), world.train.take(slice(0, 2_048))
    trained = {}
    for attack in (0.0, 0.05):
        torch.manual_seed(0)
        trained[attack] = prune_experts(Ranker(shape, world.student_data), 0.25)
        fit(trained[attack], rows, rows, LOOP.replace(attack=attack, batch_size=256))

    def loss_under_attack(ranker: Ranker) -> float:
        *before, position = inputs_of(rows)
        inputs, labels = (*before, torch.zeros_like(position)), torch.from_numpy(rows.labels)
        weights = {Head.CLICK: 1.0}
        found = attacked(
            ranker, lambda: ranker(*inputs), lambda out: ranking_loss(out, labels, weights), Attack(0.05)
        )
        return float(ranking_loss(found, labels, weights))

    assert loss_under_attack(trained[0.05]) < loss_under_attack(trained[0.0])


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_every_variant_is_smaller_and_can_be_served(built: tuple[Path, list[Variant]]) -> None:
    out, variants = built
    by_name = {variant.name: variant for variant in variants}
    assert tuple(by_name) == VARIANTS
    sizes = [by_name[name].bytes for name in ("teacher", "student", "pruned", "rows-fp16", "rows-int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert by_name["int8"].bytes < by_name["rows-int8"].bytes
    assert by_name["unstructured"].bytes == by_name["student"].bytes  # zeros weigh as much as numbers
    assert by_name["rows-int8"].overlap > 0.95
    for name in VARIANTS:  # drift can be told whichever is served
        assert len(read_histograms(out / name / HISTOGRAMS)) == SMALL.n_features
    assert [r.name for r in read_variants(out)] == list(VARIANTS)
    for name in QUANTIZED:  # fewer bits heal nothing
        inherited = [reason for reason in by_name[name].reasons if reason.startswith("pruned, which")]
        assert len(inherited) == len(by_name["pruned"].reasons)
    for name in VARIANTS:
        files = {
            "ranker.onnx",
            "calibration.json",
            "golden.safetensors",
            "summary.json",
            "variant.json",
            "uncertainty.json",
        }
        assert files <= {p.name for p in (out / name).iterdir()}
    # what compiled code computes is what was gated
    assert (
        by_name["compiled"].bytes == (out / "compiled" / KERNEL).stat().st_size < by_name["rows-int8"].bytes
    )
    assert by_name["compiled"].metrics == pytest.approx(by_name["rows-int8"].metrics, abs=1e-3)
    assert open_ranker(out / "compiled").runtime == "compiled"
    # what a model host checks when it loads the bundle
    golden = load_file(out / "int8" / "golden.safetensors")
    inputs = {n.removeprefix("ranker/in/"): a for n, a in golden.items() if n.startswith("ranker/in/")}
    for head, scores in RankerSession(out / "int8" / "ranker.onnx").run(inputs).items():
        np.testing.assert_allclose(scores, golden[f"ranker/out/{head}"], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_ladder_that_is_built_is_not_trained_again(
    built: tuple[Path, list[Variant]], world: LadderInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, variants = built

    def fail(*_: object, **__: object) -> int:
        raise AssertionError("trained again")

    monkeypatch.setattr(ladder, "fit", fail)
    again = ladder.main(config(out), world)
    assert [variant.metrics for variant in again] == [variant.metrics for variant in variants]


@pytest.mark.slow
def test_the_bench_times_every_variant_by_every_runtime(built: tuple[Path, list[Variant]]) -> None:
    out, variants = built
    result = rank.run(RankBench(out, rounds=1, calls=1))
    for name in (*VARIANTS, "eager_teacher", "eager_student"):
        assert result.figures[f"{name}_p50_ms"] > 0
    forms = [*VARIANTS, "openvino_bf16"] if find_spec("openvino") else VARIANTS
    for name in forms:
        assert result.figures[f"{name}_2_threads_p50_ms"] > 0
        assert result.figures[f"{name}_8_requests_2_threads_per_s"] > 0
    assert result.figures["served_mb"] == candidate(variants).bytes / 1e6
    assert result.figures["roofline_mflop"] > 0
    assert result.goals.keys() >= {"served_p50_ms", "eager_teacher_over_served", "served_overlap"}


@pytest.mark.slow
def test_the_report_shows_every_variant_and_its_gate(
    built: tuple[Path, list[Variant]], tmp_path: Path
) -> None:
    out, variants = built
    result = report(out, tmp_path, calls=3)
    assert {p.name for p in tmp_path.iterdir()} == {"quality-bytes.svg", "quality-p99.svg", "ladder.md"}
    lines = (tmp_path / "ladder.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in VARIANTS]
    for one in variants:
        assert result.figures[f"{one.name}_click_gauc"] == one.metrics["click_gauc"]
        for figure in ("memory_mib", "p50_ms", "p99_ms", "requests_per_s", "click_calibration_error"):
            assert np.isfinite(result.figures[f"{one.name}_{figure}"]), (one.name, figure)


def test_without_a_ladder_bench_and_report_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="recsys train ladder"):
        rank.run(RankBench(tmp_path))
    with pytest.raises(InvalidData, match="recsys train ladder"):
        report(tmp_path, tmp_path)


@pytest.mark.slow
def test_a_ladder_of_other_data_is_not_mixed_in(
    built: tuple[Path, list[Variant]], world: LadderInput
) -> None:
    out, _ = built
    with pytest.raises(InvalidConfig, match="--fresh"):
        ladder.main(config(out).replace(seed=1), world)


def variant(name: str, size: int, *reasons: str, gated: bool = True) -> Variant:
    return Variant(name, size, {}, 1.0, reasons, gated)


def test_the_smallest_variant_that_passed_is_served() -> None:
    variants = [
        variant("teacher", 900),
        variant("student", 90),
        variant("unstructured", 10, gated=False),
        variant("rows-int8", 30),
        variant("int8", 20, "click: AUC fell"),
    ]
    assert served(variants).name == "rows-int8"
    assert served([*variants, variant("compiled", 31)]).name == "compiled"  # half the time
    assert served([*variants, variant("compiled", 31, "click: AUC fell")]).name == "rows-int8"


def test_nothing_is_served_when_every_gate_fails() -> None:
    with pytest.raises(InvalidBundle, match="student: like: AUC fell"):
        served([variant("teacher", 900), variant("student", 90, "like: AUC fell by 0.1")])


@pytest.fixture(scope="module")
def judged() -> tuple[RankExamples, dict[Head, np.ndarray]]:
    """Rows of a world with the truth's own probabilities, roughly: labels blurred."""
    rows = make(SMALL.replace(rows=20_000)).examples
    rng = np.random.default_rng(0)
    scores = {}
    for head in (Head.CLICK, Head.CONVERSION, Head.LIKE):
        base = rows.label(head).mean()
        logit = np.log(base / (1 - base)) + 2 * (rows.label(head) - base) + rng.normal(0, 1, len(rows))
        scores[head] = (1 / (1 + np.exp(-logit))).astype(np.float32)
    scores[Head.DWELL] = rows.label(Head.DWELL)
    return rows, scores


@pytest.mark.slow
def test_a_faithful_copy_passes_and_a_spoiled_one_is_refused(judged) -> None:  # type: ignore[no-untyped-def]
    rows, scores = judged
    rng = np.random.default_rng(1)
    faithful = {h: s * np.float32(1 + 1e-5) for h, s in scores.items()}
    assert student_gate(faithful, scores, rows) == []
    assert quantization_gate(faithful, scores, rows, overlap=0.999) == []

    spoiled = {**scores, Head.LIKE: rng.permutation(scores[Head.LIKE])}
    assert any(r.startswith("like: AUC fell") for r in student_gate(spoiled, scores, rows))
    assert any(r.startswith("like: AUC changed") for r in quantization_gate(spoiled, scores, rows, 0.999))

    overconfident = {**scores, Head.CLICK: np.sqrt(scores[Head.CLICK])}  # the same order, other levels
    reasons = student_gate(overconfident, scores, rows)
    assert any("click: calibration error" in reason for reason in reasons)
    assert quantization_gate(scores, scores, rows, overlap=0.9) == [
        "top-50 overlap 0.900 with fp32, at least 0.98 is needed"
    ]
    with pytest.raises(InvalidBundle, match="int8 is refused: like"):
        refuse("int8", quantization_gate(spoiled, scores, rows, 0.999))


def test_nan_scores_are_refused(judged) -> None:  # type: ignore[no-untyped-def]
    rows, scores = judged
    broken = {**scores, Head.CLICK: np.full_like(scores[Head.CLICK], np.nan)}
    assert student_gate(broken, scores, rows)


def test_bootstrap_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(4_000) < 0.4).astype(np.float32)
    good = (labels + rng.normal(0, 1.0, 4_000)).astype(np.float32)
    worse = (labels + rng.normal(0, 1.5, 4_000)).astype(np.float32)
    found = auc_difference(labels, good, worse)
    assert found.value == pytest.approx(
        auc(labels.astype(int), good) - auc(labels.astype(int), worse), abs=1e-9
    )
    assert 0 < found.low < found.value < found.high
    assert auc_difference(labels, good, good).high == 0
    by_user = gauc_difference(labels, good, worse, rng.integers(0, 200, 4_000))
    assert 0 < by_user.low < by_user.value < by_user.high


def test_overlap_counts_what_both_lists_share() -> None:
    ours = np.array([[3.0, 2.0, 1.0, 0.0]], np.float32)
    assert top_overlap(ours, ours, k=2) == 1.0
    assert top_overlap(ours, -ours, k=2) == 0.0
    assert top_overlap(ours, np.array([[3.0, 0.0, 2.0, 1.0]], np.float32), k=2) == 0.5


def test_pruning_shrinks_matrices_and_keeps_the_strongest_units(world: LadderInput) -> None:
    torch.manual_seed(0)
    ranker = Ranker(config(Path()).student, world.student_data).eval()
    assert ranker.experts is not None
    first = ranker.experts.get_parameter("shared.0.0.weight")
    with torch.no_grad():
        first[::2] *= 1e-6  # half of the units do nothing
        ranker.experts.get_parameter("shared.0.0.bias")[::2] = 0
    pruned = prune_experts(ranker, 0.5)
    assert pruned.experts is not None
    assert pruned.experts.get_parameter("shared.0.0.weight").shape == (16, first.shape[1])
    inputs = inputs_of(world.test.take(slice(0, 50)))
    for a, b in zip(ranker(*inputs), pruned(*inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    sparse = zero_smallest(ranker, 0.5)
    assert (sparse.wide.weight == 0).float().mean() == pytest.approx(0.5, abs=0.02)
