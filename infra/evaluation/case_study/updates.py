"""Bytes that a model update sends to each host: the whole bundle of *before*, what changes of it in *after*."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from infra.evaluation.benchmarks.serving_fixture import bench_items, write_bench_bundle
from infra.evaluation.case_study.networks import bundle_bytes, ids_for, with_network, write_network
from infra.evaluation.case_study.rows import Measured
from infra.evaluation.case_study.section import Found, Sheet
from recsys.bundle import copy_bundle
from recsys.bundle_delta import write_delta


@dataclass(frozen=True)
class Updates:
    """Two nights: every model is trained from scratch, the catalogue stays. *Before* copies the teacher's bundle;
    *after* sends what `recsys bundle delta` writes."""

    name: ClassVar[str] = "updates"
    networks: Path
    seed: int
    items: int = 100_000
    ids: int = 0

    def measure(self) -> Found:
        items = bench_items(self.items, self.seed)
        ids = self.ids or ids_for(self.items)
        with tempfile.TemporaryDirectory(prefix="recsys-case-") as folder:
            home = Path(folder)
            nights = [write_bench_bundle(home / f"base-{n}", items, self.seed + n) for n in range(2)]
            teacher = write_network(self.networks, "teacher", self.seed, ids)
            before = with_network(nights[1], teacher, home / "before", "night-1")
            small = [write_network(self.networks, "compiled", self.seed + n, ids) for n in range(2)]
            first, second = (
                with_network(nights[n], small[n], home / "after", f"night-{n}") for n in range(2)
            )
            ranker_alone = with_network(nights[0], small[1], home / "after", "ranker-alone")
            changed, only_ranker = (
                write_delta(first, later, home / f"{later.manifest.version}.delta").bytes
                for later in (second, ranker_alone)
            )
            copy_bundle(first, home / "host")
            copied = copy_bundle(second, home / "host")
            sizes = bundle_bytes(before), bundle_bytes(second)
        whole = [float(sum(of.values())) for of in sizes]
        how = f"bundles of {self.items} items; everything retrained"

        def row(after: float, part: str = "") -> Measured:
            return Measured("network_update", whole[0], after, "bytes per model update", how, part)

        lines: list[list[str | float]] = [
            [name, f"{sizes[0].get(name, 0):,}", f"{sizes[1].get(name, 0):,}"] for name in sizes[0]
        ]
        return Found(
            [
                row(float(changed)),
                row(whole[1], "the whole bundle of after"),
                row(float(copied), "changed files copied whole"),
                row(float(only_ranker), "only the ranker retrained"),
            ],
            [Sheet("Files of a bundle, bytes", ("", "before", "after"), lines)],
        )
