"""The ranking model before and after, from the compression ladder: bytes, and the processor time of one ranking."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra.case_study.rows import Measured
from infra.case_study.section import Found
from recsys.errors import InvalidData
from recsys.rank.scorer import RankerSession
from training.export_ranker import random_inputs
from training.rungs import ONNX, candidate, read_rungs

TEACHER = "teacher"
_LENGTH, _ITEMS = 50, 1_000


@dataclass(frozen=True)
class Models:
    """Model size, and the compute of ranking alone (a part of the compute row: recall, features and HTTP are not in).

    *Before*: the fp32 teacher. *After*: the rung that is served, which is the teacher when the gates refuse all others.
    Both by onnxruntime on one thread.
    """

    ladder: Path
    candidates: int = 500
    calls: int = 200

    @property
    def name(self) -> str:
        return "models"

    def measure(self) -> Found:
        """
        Raises:
            InvalidData: there is no ladder, or no teacher in it.
        """
        rungs = read_rungs(self.ladder)
        teacher = next((rung for rung in rungs if rung.name == TEACHER), None)
        if teacher is None:
            raise InvalidData(f"{self.ladder}: no ladder with a teacher; build it with `recsys train ladder`")
        best = candidate(rungs)
        served = teacher if best.reasons else best
        refused = (
            f"; gates refused the others, {best.name}: {', '.join(best.reasons)}" if best.reasons else ""
        )
        how = f"ladder: {TEACHER} to {served.name}{refused}"
        seconds = [self._cpu_seconds(rung.name) for rung in (teacher, served)]
        size = float(teacher.bytes), float(served.bytes)
        return Found(
            [
                Measured("model_size", *size, "bytes", how, exact=True),
                Measured(
                    "compute",
                    1_000 * seconds[0],
                    1_000 * seconds[1],
                    "CPU-seconds per 1 000 requests",
                    f"{how}; {self.candidates} candidates, {self.calls} calls",
                    "ranking alone",
                ),
            ]
        )

    def _cpu_seconds(self, rung: str) -> float:
        """Processor time of one call, the median: other load on the machine does not count."""
        session = RankerSession(self.ladder / rung / ONNX)
        inputs = random_inputs(
            _ITEMS, session.n_features or 1, _LENGTH, self.candidates, np.random.default_rng(0)
        )
        session.run(inputs)
        times = []
        for _ in range(self.calls):
            began = time.process_time()
            session.run(inputs)
            times.append(time.process_time() - began)
        return float(np.median(times))
