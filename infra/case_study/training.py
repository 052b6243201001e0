"""Processor time of a nightly training run: examples of the lake and the ranker.

*Before* builds the examples of every day again and trains the teacher. *After* builds the day that is new, as
`recsys features build` does by itself, and trains the whole ladder, for its student needs a teacher; so what
compression saves with each request, it costs here, and the row says by how much.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from infra.bench.batch import BatchBench, measured, write_lake
from infra.case_study.rows import Measured
from infra.case_study.section import Found, Sheet
from infra.ladders import seeded
from recsys import lake
from training.features_job import FeatureJob, build
from training.ladder import LadderConfig, main, train_teacher
from training.ladder_data import LadderData
from training.ladder_input import synthetic_input
from training.spark import spark_session


@dataclass(frozen=True)
class Training:
    """`rows` of `ids` items train the ranker (synthetic); `events` of `days` are in the lake."""

    seed: int
    rows: int = 160_000
    ids: int = 500_000
    events: int = 250_000
    days: int = 14

    @property
    def name(self) -> str:
        return "training"

    def measure(self) -> Found:
        with tempfile.TemporaryDirectory(prefix="recsys-case-") as folder:
            every_day, new_day = self._features(Path(folder))
            teacher, ladder = self._ranker(Path(folder) / "ladder")
        unit = "CPU-seconds per training run"
        how = (
            f"examples of {self.events} events over {self.days} days by Spark, every day against the new one;"
            f" ranker on {self.rows} synthetic rows of {self.ids} ids"
        )

        def row(before: float, after: float, part: str = "") -> Measured:
            return Measured("training_compute", before, after, unit, how, part)

        return Found(
            [
                row(every_day + teacher, new_day + teacher + ladder),
                row(every_day, new_day, "examples"),
                row(teacher, teacher + ladder, "ranker, teacher and student"),
                row(teacher, ladder, "ranker, the student of a teacher that is kept"),
            ],
            [
                Sheet(
                    "A training run, CPU-seconds",
                    ("", "before", "after"),
                    [
                        ["examples", every_day, new_day],
                        ["teacher", teacher, teacher],
                        ["student, pruned, quantized, and their gates", "", ladder],
                    ],
                )
            ],
        )

    def _features(self, folder: Path) -> tuple[float, float]:
        """Every day again, and the last day alone."""
        source = write_lake(
            folder / "lake",
            BatchBench(self.seed, self.events, self.events // 50, self.events // 50, self.days),
        )
        job = FeatureJob(str(source), str(folder / "kept"), last_day=str(lake.days(source)[-2]))
        spark = spark_session("local[2]")
        try:
            build(spark, job)  # all but the last day; warms up, too
            with measured() as new_day:
                build(spark, replace(job, last_day=""))
            with measured() as every_day:
                build(spark, replace(job, last_day="", rebuild=True))
        finally:
            spark.stop()
        return every_day.cpu_s, new_day.cpu_s

    def _ranker(self, out: Path) -> tuple[float, float]:
        """The teacher alone, and everything that the ladder does below it."""
        config = seeded(LadderConfig(out), self.seed)
        data = LadderData(
            n_items=self.ids, n_creators=max(1, self.ids * 2 // 5), rows=self.rows, seed=self.seed
        )
        given = synthetic_input(data, config.teacher, config.student)
        return _cpu_s(lambda: train_teacher(config, given)), _cpu_s(lambda: main(config, given))


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
