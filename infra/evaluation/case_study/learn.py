"""Train both arms on one log: one two-tower, and a ranker for each age of the features. In process, no Spark.

The kernels are those of the Spark job (`training.features.kernel`), with the whole log as one bucket: a case study's
log is small. A ranker must be trained on features as old as those that it is served with: `nightly` gives each example
what was known at the midnight before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.bundle import Bundle
from recsys.contracts.types import MS_PER_DAY
from recsys.features.definitions import FEATURES
from recsys.items.item_table import read_items
from recsys.lake.lake import DAY_PREFIX, days, read_day, write_parquet
from recsys.models.ranker import RankerConfig
from recsys.models.two_tower import TwoTowerShape
from training import publish
from training.features.arrow_columns import TIME
from training.features.kernel import ITEM_TEXTS, REQUEST_TEXTS, USER_TEXTS, item_side, user_side
from training.features.labels import ITEM_CONTEXT, LabelConfig, label
from training.features.sequences import sequences
from training.features.trust import Verdicts, trusted_examples
from training.publish import PublishConfig
from training.ranker import train as train_ranker
from training.ranker.loop import LoopConfig
from training.ranker.train import RankerTraining
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig

SMALL = RankerConfig(
    width=16, shared_experts=2, expert_layers=(64, 32)
)  # enough for a log of a few 100,000 lists

_USERS_AT_ONCE = 2_000


@dataclass(frozen=True)
class Learning:
    recall_epochs: int = 5
    rank_epochs: int = 3
    rows_per_epoch: int = 150_000
    example_days: int = 7  # the ranker's; features know the whole log
    history: int = 20  # events of a user that the ranker is trained on
    ranker: RankerConfig = field(default_factory=lambda: SMALL)
    seed: int = 0


def read_log(lake: Path) -> pa.Table:
    """Every event of the lake, flat, as the kernels of `training.features.kernel` read them."""
    rows = pa.concat_tables([read_day(lake, day) for day in days(lake)])
    context = rows.column("context")
    names = {**{name: name for name in ITEM_CONTEXT}, **{c: name for (_, name), c in REQUEST_TEXTS.items()}}
    flat = rows.select(
        ["event_id", "type", "user_id", "item_id", TIME, "request_id", "position", "value"]
    ).append_column("attributed", pc.is_valid(rows.column("request_id")))
    for column, name in names.items():
        flat = flat.append_column(column, pc.map_lookup(context, name, "first"))
    return flat.combine_chunks()


def write_examples(
    log: pa.Table,
    items: Path,
    out: Path,
    days: int,
    nightly: bool,
    days_old: int = 0,
    verdicts: Verdicts | None = None,
) -> int:
    """Label the impressions of the last `days` and add their features, as of the instant or (`nightly`) of the midnight
    before; `days_old`: of that many midnights earlier. `verdicts`: which examples are left out. Writes `out`/dt=…;
    returns the number of rows."""
    end_ms = (pc.max(log.column(TIME)).as_py() // MS_PER_DAY + 1) * MS_PER_DAY
    config = LabelConfig(end_ms - days * MS_PER_DAY, end_ms, negatives=0)
    bare = label(log, config, tuple(REQUEST_TEXTS.values()))
    bare = trusted_examples(bare, log, verdicts) if verdicts else bare
    bare = _with_items(bare, items)
    written = 0
    for day, rows, known in _by_day(bare, log, nightly, days_old):
        half = item_side(rows, known)
        for column in USER_TEXTS.values():  # a world's users have no attributes
            half = half.append_column(column, pa.nulls(len(half), pa.string()))
        table = _with_users(half, known)
        write_parquet(out / f"{DAY_PREFIX}{day}" / "part.parquet", table)
        written += table.num_rows
    return written


def _with_users(half: pa.Table, known: pa.Table) -> pa.Table:
    """`user_side` of some users at a time: the kernel has room for a million pairs of a user and an item."""
    users = pc.unique(half.column("user_id"))
    parts = []
    for first in range(0, len(users), _USERS_AT_ONCE):
        some = users.slice(first, _USERS_AT_ONCE)
        parts.append(
            user_side(*(t.filter(pc.is_in(t.column("user_id"), value_set=some)) for t in (half, known)))
        )
    return pa.concat_tables(parts)


def _by_day(
    bare: pa.Table, log: pa.Table, nightly: bool, days_old: int
) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """Each day's examples, and the events that their features may use."""
    day, event_ms = np.asarray(bare.column(TIME)) // MS_PER_DAY, log.column(TIME)
    for number in np.unique(day).tolist():
        cut = nightly or days_old > 0
        known = log.filter(pc.less(event_ms, (number - days_old) * MS_PER_DAY)) if cut else log
        if known.num_rows:  # before the first night nothing is known
            name = str(np.datetime64(number, "D"))
            yield name, bare.filter(pa.array(day == number)), known


def _with_items(bare: pa.Table, items: Path) -> pa.Table:
    """Add each example's item attributes; null where the item is not in the table."""
    table = read_items(items)
    place = pc.index_in(bare.column("item_id"), value_set=pa.array([item.item_id for item in table]))
    for (_, name), column in ITEM_TEXTS.items():
        texts = pa.array([item.attributes.get(name) for item in table], pa.string())
        bare = bare.append_column(column, texts.take(place))
    created = pa.array([item.created_ms for item in table], pa.int64())
    return bare.append_column("created_ms", created.take(place))


class Trained(NamedTuple):
    """How a bundle is trained: with features of last night or of the instant, with a taste model or without."""

    nightly: bool
    taste: bool

    @property
    def version(self) -> str:
        return f"{'last-night' if self.nightly else 'now'}-{'taste' if self.taste else 'plain'}"


def learn(
    lake: Path, work: Path, bundles: Path, config: Learning, kinds: Sequence[Trained]
) -> dict[Trained, Bundle]:
    """Train and publish each: same recall, shape of ranker and seed."""
    log, items = read_log(lake), lake / "items" / "items.parquet"
    write_parquet(work / "sequences" / "part.parquet", sequences(log))
    towers = train_two_tower.main(
        TwoTowerConfig(
            sequences=work / "sequences",
            items=items,
            shape=TwoTowerShape(),
            work=work / "checkpoints",
            seed=config.seed,
            epochs=config.recall_epochs,
            threads=1,
        )
    )
    export_two_tower.main(towers, work / "two_tower")
    for nightly in sorted({kind.nightly for kind in kinds}):
        write_examples(log, items, _examples(work, nightly), config.example_days, nightly)
    return {kind: _bundle(kind, lake, work, bundles, config) for kind in kinds}


def _examples(work: Path, nightly: bool) -> Path:
    return work / ("examples-of-last-night" if nightly else "examples")


def _bundle(kind: Trained, lake: Path, work: Path, bundles: Path, config: Learning) -> Bundle:
    name = kind.version
    train_ranker.main(
        RankerTraining(
            n_features=FEATURES.dimension,
            examples=_examples(work, kind.nightly),
            items=lake / "items" / "items.parquet",
            out=work / name / "ranker",
            checkpoints=work / name / "checkpoints",
            history_length=config.history,
            taste=kind.taste,
            model=config.ranker,
            loop=LoopConfig(
                epochs=config.rank_epochs, rows_per_epoch=config.rows_per_epoch, seed=config.seed
            ),
        )
    )
    return publish.main(
        PublishConfig(
            lake=lake,
            two_tower=work / "two_tower",
            ranker=work / name / "ranker",
            bundles=bundles,
            version=name,
        )
    )
