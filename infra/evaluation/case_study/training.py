"""Processor time of a night's training: examples, two-tower, ranker and exports, each as its command does it.

*Before*, every night: `recsys features build --rebuild`, then both models from random weights, the ranker being the
served teacher. *After*: the examples of the new day, then `recsys train nightly`: both models continue from yesterday's
weights, and each seventh night trains in full (teacher, student, pruned, 8 bits). A night of *after* counts a seventh
of the full training and six sevenths of an update.

The training data is the history of a simulated shop; the next day, which no model has seen, says what the savings cost
in quality (*simulated*).
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.evaluation.benchmarks.batch import measured
from infra.evaluation.case_study.rows import Measured
from infra.evaluation.case_study.section import Found, Sheet
from infra.evaluation.timing import seconds
from recsys.contracts.types import MS_PER_DAY, Head, Item
from recsys.energy import modelled
from recsys.features.definitions import FEATURES
from recsys.items.item_table import read_items
from recsys.lake import lake
from recsys.lake.lake import write_parquet
from recsys.metrics import auc, gauc
from recsys.models.ranker import Ranker
from recsys.ranking.taste import read_taste
from recsys.simulation.history import HistoryConfig, write_history
from recsys.simulation.world import WorldConfig, create_world
from recsys.spark_session import spark_session
from training.choices import FULL_EVERY
from training.compression import ladder
from training.compression.ladder import STUDENT, LadderConfig
from training.compression.ladder_input import lake_input
from training.compression.variants import take
from training.features.feature_job import FeatureJob
from training.features.job import build
from training.nightly.ranker import RankerUpdate, carried_over
from training.nightly.update import update_ranker, update_two_tower
from training.ranker import train as train_ranker
from training.ranker.artifacts import trained_ranker
from training.ranker.dataset import RankExamples, item_fields, read_examples
from training.ranker.fit_taste import TasteOffsets
from training.ranker.loop import predict
from training.ranker.train import RankerTraining
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig
from training.warm_start import read_warm_start

_LENGTH = 50


@dataclass(frozen=True)
class Training:
    """`days` of a shop of `users` and `items`; the last one is new tonight. One more day is the test."""

    name: ClassVar[str] = "training"
    seed: int
    users: int = 800
    items: int = 2_000
    days: int = 14
    recall_epochs: int = 20

    def measure(self) -> Found:
        with tempfile.TemporaryDirectory(prefix="recsys-case-") as folder:
            night = _Night(self, Path(folder))
            spark = spark_session("local[2]")
            try:
                costs = night.run(spark)
            finally:
                spark.stop()
            quality = night.quality()
        return _found(costs, quality, self)


@dataclass(frozen=True)
class Costs:
    """CPU-seconds of one kind of training."""

    examples: float
    two_tower: float
    ranker: float

    @property
    def whole(self) -> float:
        return self.examples + self.two_tower + self.ranker


class _Night:
    """Yesterday's models, tonight's trained in both ways, and tomorrow's rows."""

    def __init__(self, config: Training, home: Path) -> None:
        self._config, self._home = config, home
        world = WorldConfig(seed=config.seed, users=config.users, items=config.items, days=config.days + 1)
        write_history(create_world(world), home / "lake", HistoryConfig(days=config.days + 1))
        *self._before, self._tonight, self._tomorrow = map(str, lake.days(home / "lake"))
        self._tables = home / "lake" / "items" / "items.parquet"
        self._job = FeatureJob(str(home / "lake"), str(home / "features"))
        for day in (self._tonight, self._tomorrow):  # not there yet
            self._day(day).rename(home / day)

    def run(self, spark: Any) -> dict[str, Costs]:
        """The costs of `full` (yesterday), `update` and `before` (both tonight)."""
        home, items = self._home, self._items(self._tonight)
        build(spark, self._job)  # warms up, too
        towers, ranker = self._full(self._items(self._before[-1]))
        shutil.copytree(home / "ranker", home / "yesterday")
        self._begin(self._tonight)
        with measured() as new_day:  # and the day before, which gets its last outcomes
            build(spark, self._job)
        full = Costs(new_day.cpu_s, towers, ranker)
        update = Costs(
            new_day.cpu_s,
            _cpu_s(lambda: update_two_tower(self._two_tower(items, 1), home / "two_tower")),
            _cpu_s(lambda: update_ranker(self._update(items))),
        )
        with measured() as every_day:
            build(spark, replace(self._job, rebuild=True))
        before = Costs(
            every_day.cpu_s,
            self._cold_two_tower(items, home / "before" / "two_tower"),
            _cpu_s(lambda: train_ranker.main(self._teacher(items))),
        )
        self._begin(self._tomorrow)
        build(spark, self._job)
        return {"before": before, "full": full, "update": update}

    def quality(self) -> dict[str, tuple[float, float]]:
        """Click AUC and GAUC on tomorrow's rows: of the teacher trained from scratch, and of the student with and
        without tonight's update."""
        home = self._home
        items = read_items(self._items(self._tonight))
        previous = read_warm_start(home / "yesterday")
        old = carried_over(home / "yesterday", previous, items, item_fields(items, known=previous.fields))
        return {
            "before: the teacher, trained tonight": _clicks(
                trained_ranker(home / "before" / "ranker"), self._rows(home / "before" / "ranker", items)
            ),
            "after: the student, updated tonight": _clicks(
                trained_ranker(home / "ranker"), self._rows(home / "ranker", items)
            ),
            "the student of last night": _clicks(old, self._rows(home / "yesterday", items)),
        }

    def _rows(self, ranker: Path, items: Sequence[Item]) -> RankExamples:
        """Tomorrow's, with the offsets of that ranker's own taste model."""
        taste, ids = read_taste(ranker), [item.item_id for item in items]
        offset = TasteOffsets(taste, items) if taste else None
        examples = self._home / "features" / "examples"
        return read_examples(examples, ids, FEATURES.dimension, _LENGTH, [self._tomorrow], offset)

    def _begin(self, day: str) -> None:
        """Move the day's events into the lake."""
        (self._home / day).rename(self._day(day))

    def _day(self, day: str) -> Path:
        return self._home / "lake" / lake.EVENTS / f"{lake.DAY_PREFIX}{day}"

    def _items(self, day: str) -> Path:
        """The item table as it was at the end of that day."""
        path = self._home / f"items-{day}.parquet"
        if not path.exists():
            end_ms = int(np.datetime64(day, "ms").astype(np.int64)) + MS_PER_DAY
            table = pq.read_table(self._tables)
            write_parquet(path, table.filter(pc.less(table["created_ms"], end_ms)))
        return path

    def _full(self, items: Path) -> tuple[float, float]:
        """As `recsys train all --compress` without publishing: two-tower, and the ladder up to 8 bits."""
        home = self._home
        student = replace(STUDENT, item_buckets=0)  # a lake's catalogue needs no hashing
        config = LadderConfig(out=home / "ladder", student=student, seed=self._config.seed, compared=False)
        towers = self._cold_two_tower(items, home / "two_tower")

        def train() -> None:
            examples = home / "features" / "examples"
            given = lake_input(examples, items, FEATURES.dimension, _LENGTH, config.teacher, config.student)
            variant = ladder.main(config, given)[-1]
            # with few rows a gate's verdict is noise, and this measures cost; quality is in its own sheet
            replace(variant, reasons=()).write(config.out / variant.name)
            take(config.out / variant.name, home / "ranker")
            assert given.warm_start is not None  # noqa: S101 - of a lake
            given.warm_start.write(home / "ranker")

        return towers, _cpu_s(train)

    def _cold_two_tower(self, items: Path, work: Path) -> float:
        return _cpu_s(
            lambda: export_two_tower.main(
                train_two_tower.main(self._two_tower(items, self._config.recall_epochs)), work
            )
        )

    def _two_tower(self, items: Path, epochs: int) -> TwoTowerConfig:
        work = Path(tempfile.mkdtemp(dir=self._home))
        return TwoTowerConfig(
            sequences=self._home / "features" / "sequences",
            items=items,
            work=work,
            seed=self._config.seed,
            epochs=epochs,
            threads=1,
        )

    def _update(self, items: Path) -> RankerUpdate:
        home = self._home
        return RankerUpdate(
            n_features=FEATURES.dimension,
            examples=home / "features" / "examples",
            items=items,
            work=home / "ranker",
            out=home / "ranker.new",
            history_length=_LENGTH,
        )

    def _teacher(self, items: Path) -> RankerTraining:
        """What *before* serves, trained as long as the ladder's."""
        home, config = self._home, LadderConfig(out=self._home)
        return RankerTraining(
            n_features=FEATURES.dimension,
            examples=home / "features" / "examples",
            items=items,
            out=home / "before" / "ranker",
            checkpoints=home / "before" / "checkpoints",
            history_length=_LENGTH,
            model=config.teacher,
            loop=config.teacher_loop.replace(seed=self._config.seed),
        )


def _found(costs: dict[str, Costs], quality: dict[str, tuple[float, float]], config: Training) -> Found:
    before, full, update = (costs[name] for name in ("before", "full", "update"))
    unit = "CPU-seconds per training run"
    how = (
        f"a night: {config.days} days of a simulated shop of {config.users} users, seed {config.seed}; "
        "examples by Spark, two-tower, ranker and their exports"
    )

    def row(after: float, how: str, part: str = "", of: float = before.whole) -> Measured:
        return Measured("training_compute", of, after, unit, how, part)

    rest = FULL_EVERY - 1
    mean = (full.whole + rest * update.whole) / FULL_EVERY
    nights = [modelled(cpu_s, 0.0) for cpu_s in (before.whole, mean)]
    parts = ("examples", "two_tower", "ranker")
    lines: list[list[str | float]] = [
        [part.replace("_", "-"), *(getattr(cost, part) for cost in (before, update, full))] for part in parts
    ]
    lines.append(["together", before.whole, update.whole, full.whole])
    return Found(
        [
            row(mean, f"{how}; after trains in full each {FULL_EVERY}th night, which is counted"),
            row(update.whole, how, "a night between"),
            row(full.whole, how, "the night in full"),
            row((full.whole + 29 * update.whole) / 30, how, "in full once in 30 nights"),
            Measured(
                "energy",
                nights[0].joules,
                nights[1].joules,
                "J per training night",
                "model of recsys/energy.py, processor time alone: "
                + ", ".join(f"{night.low:.3g} to {night.high:.3g} J" for night in nights),
                "training, modelled",
            ),
        ],
        [
            Sheet(
                "A night's training, CPU-seconds",
                ("", "before: in full", "after: an update", f"after, each {FULL_EVERY}th night: in full"),
                lines,
            ),
            Sheet(
                "What the savings cost (simulated)",
                ("ranker", "click AUC of tomorrow's lists", "click GAUC"),
                [[name, *scores] for name, scores in quality.items()],
                "Rows of a day that none of them has seen; features as of the instant in all.",
            ),
        ],
        {"costs": {name: asdict(cost) for name, cost in costs.items()}},
    )


def _clicks(ranker: Ranker, rows: RankExamples) -> tuple[float, float]:
    happened, scores = rows.label(Head.CLICK).astype(np.int64), predict(ranker, rows)[Head.CLICK]
    return auc(happened, scores), gauc(happened, scores, rows.users)


def _cpu_s(work: Callable[[], object]) -> float:
    return seconds(work, time.process_time)
