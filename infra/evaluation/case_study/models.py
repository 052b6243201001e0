"""The ranking model before and after, from the compression ladder: bytes, and the processor time of one ranking."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from infra.evaluation.case_study.deployments import VariantName
from infra.evaluation.case_study.networks import write_network
from infra.evaluation.case_study.rows import Measured
from infra.evaluation.case_study.section import Found, Sheet
from infra.evaluation.timing import median_s
from recsys.contracts.errors import InvalidData
from recsys.ranking.compiled import open_ranker
from training.compression.variants import Variant, candidate, ranked_with, read_variants
from training.ranker.export import random_inputs

TEACHER = "teacher"
_LENGTH, _ITEMS = 50, 1_000


@dataclass(frozen=True)
class Models:
    """Model size, and the compute of ranking alone (a part of the compute row, without recall, features and HTTP).

    *Before*: the fp32 teacher. *After*: the served variant, which is the teacher when the gates refuse all others.
    On one thread; by onnxruntime, or by compiled code if the variant has it. Without a ladder: the same architectures
    with untrained weights, ungated.
    """

    name: ClassVar[str] = "models"
    ladder: Path
    networks: Path
    seed: int
    ids: int = 0
    candidates: int = 500
    calls: int = 200

    def measure(self) -> Found:
        """
        Raises:
            InvalidData: there is a ladder, but no teacher in it.
        """
        variants = read_variants(self.ladder)
        how, folders = self._trained(variants) if variants else self._untrained()
        seconds = [self._cpu_seconds(folder) for folder in folders]
        size = [float(ranked_with(folder).stat().st_size) for folder in folders]
        return Found(
            [
                Measured("model_size", size[0], size[1], "bytes", how, exact=True),
                Measured(
                    "compute",
                    1_000 * seconds[0],
                    1_000 * seconds[1],
                    "CPU-seconds per 1 000 requests",
                    f"{how}; {self.candidates} candidates, {self.calls} calls",
                    "ranking alone",
                ),
            ],
            [_sheet(variants)] if variants else [],
        )

    def _trained(self, variants: Sequence[Variant]) -> tuple[str, list[Path]]:
        teacher = next((variant for variant in variants if variant.name == TEACHER), None)
        if teacher is None:
            raise InvalidData(f"{self.ladder}: a ladder without a teacher; run `recsys train ladder` again")
        best = candidate(list(variants))
        served = teacher if best.reasons else best
        refused = (
            f"; gates refused the others, {best.name}: {', '.join(best.reasons)}" if best.reasons else ""
        )
        how = f"ladder: {TEACHER} to {served.name}{refused}"
        return how, [self.ladder / variant.name for variant in (teacher, served)]

    def _untrained(self) -> tuple[str, list[Path]]:
        how = "architectures of the ladder, untrained (no gate was asked): teacher to the compiled student"
        variants: tuple[VariantName, ...] = ("teacher", "compiled")
        return how, [write_network(self.networks, variant, self.seed, self.ids) for variant in variants]

    def _cpu_seconds(self, folder: Path) -> float:
        """Median processor time of one call: other load on the machine does not count."""
        ranker = open_ranker(folder)
        inputs = random_inputs(
            _ITEMS, ranker.n_features or 1, _LENGTH, self.candidates, np.random.default_rng(0)
        )
        return median_s(lambda: ranker.run(inputs), self.calls, time.process_time)


def _sheet(variants: Sequence[Variant]) -> Sheet:
    """The quality of each variant."""
    lines: list[list[str | float]] = [
        [
            variant.name,
            f"{variant.bytes:,}",
            f"{variant.metrics['click_auc']:.4f}" if "click_auc" in variant.metrics else "",
            f"{variant.overlap:.3f}",
            "; ".join(variant.reasons) or ("" if variant.gated else "for comparison"),
        ]
        for variant in variants
    ]
    note = "Trained on synthetic ids at the case study's size by `recsys train ladder`."
    return Sheet("The ladder", ("variant", "bytes", "click AUC", "top-50 overlap", "refused"), lines, note)
