"""A small simulated shop with its log, the bundle that serves it, and the candidate of the night after.

The serving bundle knows the log without its newest day, the candidate all of it. Two more rankers are trained for the
planted candidates that no change of a file makes: on shuffled labels, and on features of a week before.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.evaluation.case_study.learn import SMALL, read_log, write_examples
from infra.terminal import console
from recsys.bundle import Bundle
from recsys.contracts.types import MS_PER_DAY
from recsys.features.definitions import FEATURES
from recsys.lake.lake import write_parquet
from recsys.models.ranker import RankerConfig
from recsys.models.two_tower import TwoTowerShape
from recsys.simulation.history import HistoryConfig, write_history
from recsys.simulation.world import World, WorldConfig, create_world
from training import publish
from training.features.sequences import sequences
from training.publish import PublishConfig
from training.ranker import train as train_ranker
from training.ranker.loop import LoopConfig
from training.ranker.train import RankerTraining
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig

SERVING, CANDIDATE = "serving", "candidate"
SHUFFLED, STALE, POISONED = "shuffled-labels", "stale-features", "poisoned-night"
LABELS = ("click", "conversion", "like")
_ROBOTS = 0.3  # share of the poisoned day's impressions that robots click
_STALE_DAYS = 6


@dataclass(frozen=True)
class ShopSize:
    """`days`: of the log; the newest one judges. `example_days`: that the rankers learn from."""

    users: int = 900
    items: int = 600
    days: int = 9
    example_days: int = 5
    recall_epochs: int = 3
    rank_epochs: int = 2
    rows_per_epoch: int = 40_000
    ranker: RankerConfig = field(default_factory=lambda: SMALL)


@dataclass(frozen=True)
class Shop:
    """The world; where examples lie, by the candidate that has its own; and the trained bundles by version."""

    world: World
    lake: Path
    now_ms: int
    bundles: Path
    trained: dict[str, Bundle]
    examples: Path
    poisoned: Path

    def examples_of(self, version: str) -> Path:
        return self.poisoned if version == POISONED else self.examples


def train_shop(size: ShopSize, seed: int, home: Path) -> Shop:
    """Simulate the log and train everything; minutes."""
    world = create_world(WorldConfig(seed=seed, users=size.users, items=size.items, days=size.days + 2))
    lakes = {CANDIDATE: home / "lake", SERVING: home / "lake-before"}
    for version, lake in lakes.items():
        write_history(world, lake, HistoryConfig(days=size.days - (version == SERVING)))
    log = read_log(lakes[CANDIDATE])
    examples, items = home / "examples", lakes[CANDIDATE] / "items" / "items.parquet"
    console.print("next: examples")
    write_examples(log, items, examples, size.example_days + 1, nightly=False)
    before = _without_newest(examples, home / "examples-before")
    poisoned = _changed(examples, home / "examples-poisoned", partial(_poisoned, seed=seed), newest_only=True)
    shuffled = _changed(examples, home / "examples-shuffled", partial(_shuffled, seed=seed))
    stale = home / "examples-stale"
    write_examples(log, items, stale, size.example_days + 1, nightly=False, days_old=_STALE_DAYS)

    trained, bundles = {}, home / "bundles"
    for version, lake, folder, towers in (
        (SERVING, lakes[SERVING], before, SERVING),
        (CANDIDATE, lakes[CANDIDATE], examples, CANDIDATE),
        (SHUFFLED, lakes[CANDIDATE], shuffled, CANDIDATE),
        (STALE, lakes[CANDIDATE], stale, CANDIDATE),
        (POISONED, lakes[CANDIDATE], poisoned, CANDIDATE),
    ):
        console.print(f"next: train {version}")
        if version == towers:
            train_towers(size, seed, home / version, lake, sequences(read_log(lake)))
        train_own_ranker(size, seed, home / version, lake, folder)
        trained[version] = publish.main(
            PublishConfig(
                lake=lake,
                two_tower=home / towers / "two_tower",
                ranker=home / version / "ranker",
                bundles=bundles,
                version=version,
                current=version == SERVING,
            )
        )
    now_ms = world.config.start_ms + size.days * MS_PER_DAY
    return Shop(world, lakes[CANDIDATE], now_ms, bundles, trained, examples, poisoned)


def train_towers(size: ShopSize, seed: int, home: Path, lake: Path, rows: pa.Table) -> None:
    """Into `home`/two_tower, on these sequences."""
    write_parquet(home / "sequences" / "part.parquet", rows)
    towers = train_two_tower.main(
        TwoTowerConfig(
            sequences=home / "sequences",
            items=lake / "items" / "items.parquet",
            shape=TwoTowerShape(),
            work=home / "checkpoints",
            seed=seed,
            epochs=size.recall_epochs,
            threads=1,
        )
    )
    export_two_tower.main(towers, home / "two_tower")


def train_own_ranker(size: ShopSize, seed: int, home: Path, lake: Path, examples: Path) -> None:
    """Into `home`/ranker."""
    train_ranker.main(
        RankerTraining(
            n_features=FEATURES.dimension,
            examples=examples,
            items=lake / "items" / "items.parquet",
            out=home / "ranker",
            checkpoints=home / "ranker-checkpoints",
            history_length=20,
            taste=False,
            model=size.ranker,
            loop=LoopConfig(epochs=size.rank_epochs, rows_per_epoch=size.rows_per_epoch, seed=seed),
        )
    )


def _without_newest(examples: Path, out: Path) -> Path:
    for day in sorted(examples.iterdir())[:-1]:
        shutil.copytree(day, out / day.name)
    return out


def _changed(
    examples: Path, out: Path, change: Callable[[pa.Table], pa.Table], newest_only: bool = False
) -> Path:
    """A copy of the examples, with this change of every day, or of the newest one."""
    found = sorted(examples.glob("dt=*/*.parquet"))
    for path in found:
        table = pq.ParquetFile(path).read()
        if not newest_only or path.parent == found[-1].parent:
            table = change(table)
        write_parquet(out / path.relative_to(examples), table)
    return out


def _shuffled(table: pa.Table, seed: int) -> pa.Table:
    """Labels that belong to other rows."""
    other = np.random.default_rng(seed).permutation(len(table))
    for name in (*LABELS, "dwell_ms"):
        table = table.set_column(table.column_names.index(name), name, table[name].take(pa.array(other)))
    return table


def _poisoned(table: pa.Table, seed: int) -> pa.Table:
    """Robots click a share of the rows."""
    click = np.asarray(table["click"]).copy()
    click[np.random.default_rng(seed).random(len(click)) < _ROBOTS] = 1
    at = table.column_names.index("click")
    return table.set_column(at, "click", pa.array(click, table["click"].type))
