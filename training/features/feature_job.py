"""What the Spark job is asked for, and what it reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from recsys.contracts.attribution import Attribution
from recsys.features.definitions import FEATURES
from training.features.lake_tables import LakeTables
from training.features.trust import REASONS


@dataclass(frozen=True)
class FeatureJob:
    """What to build, from where, to where. `lake` and `output` may be any path that Hadoop reads.

    Days are UTC, both ends included; empty: the lake's first and last. `newest`: only the newest of them that have
    this many events together; 0: all. Days that were built for these definitions are
    skipped, unless `rebuild` is set or the rows that label them changed. `buckets`: of keys; each core holds one in
    memory; 0: as the log's size needs. `forgotten` is
    `recsys.lake.forget.forgotten_users`: their rows are left out at once, before a compaction removes them. `trust`:
    leave out what looks like manipulation (`training.features.trust`).
    """

    lake: str
    output: str
    first_day: str = ""
    last_day: str = ""
    newest: int = 0
    attribution: Attribution = field(default_factory=Attribution)
    negatives: int = 4
    seed: int = 0
    buckets: int = 0
    rebuild: bool = False
    forgotten: Mapping[str, int] = field(default_factory=dict)
    trust: bool = True
    snapshot: LakeTables | None = None  # `build` sets it, so that all passes read the same files

    @property
    def tables(self) -> LakeTables:
        return self.snapshot or LakeTables(self.lake)


@dataclass(frozen=True)
class Report:
    """What a run did."""

    days: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    events: int = 0
    examples: int = 0  # of the days built
    sampled: int = 0  # of them, items that were not shown
    clicks: int = 0
    conversions: int = 0
    sequences: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)  # `training.features.trust`, by reason
    fingerprint: str = field(default_factory=lambda: FEATURES.fingerprint)

    @property
    def events_left_out(self) -> int:
        """For any reason."""
        return sum(self.left_out.get(reason, 0) for reason in REASONS)
