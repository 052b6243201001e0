"""The scenario that every deployment of the case study is served on: log, store, documents, bundles."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import redis

from infra.evaluation.benchmarks.serve import Api, api
from infra.evaluation.benchmarks.serving_fixture import bench_items, write_bench_bundle, write_history
from infra.evaluation.case_study.deployments import Deployment
from infra.evaluation.case_study.networks import ids_for, with_network, write_network
from infra.evaluation.stream_rig import PARTITIONS, StreamRig
from infra.terminal import console
from recsys.bundle import Bundle
from recsys.features.definitions import FEATURES
from recsys.store.nightly import NightlyStore
from recsys.store.nightly_job import write_nightly

_CATCH_UP_S = 120.0


@dataclass(frozen=True)
class Size:
    """`ids`: number that the rankers know; 0: as the ladder, or as many as are served."""

    items: int = 100_000
    users: int = 50_000
    history_events: int = 200_000
    ids: int = 0
    seed: int = 0


class ServedScenario:
    """A context manager. History is applied by the store's own code; the documents are written after it."""

    def __init__(self, size: Size, networks: Path) -> None:
        """`networks`: folder of the untrained rankers, shared by the sections."""
        self.size = size
        self._networks = networks
        self.items = bench_items(size.items, size.seed)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        size = self.size
        with ExitStack() as opening:
            self.rig = opening.enter_context(StreamRig())
            console.print(f"{size.items} items, {size.history_events} events of history …")
            self._base = write_bench_bundle(self.rig.home / "base", self.items, size.seed)
            write_history(self.rig.store, self.items, size.users, size.history_events, PARTITIONS, size.seed)
            self.redis: Any = opening.enter_context(closing(redis.Redis.from_url(self.rig.redis.url)))
            nightly = opening.enter_context(closing(NightlyStore(self.rig.redis.url, FEATURES)))
            self.documents = write_nightly(self.rig.store, nightly, self.items, time.time_ns() // 1_000_000)
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def home(self, deployment: Deployment) -> tuple[Path, Bundle]:
        """Publish the deployment's bundle; returns its RECSYS_HOME and the bundle."""
        size, home = self.size, self.rig.home / deployment.variant
        ids = size.ids or ids_for(size.items)
        network = write_network(self._networks, deployment.variant, size.seed, ids)
        if (home / "bundles").exists():
            shutil.rmtree(home)
        return home, with_network(self._base, network, home / "bundles", deployment.variant)

    @contextmanager
    def serve(self, deployment: Deployment, workers: int) -> Iterator[Api]:
        """Run `recsys serve` as this deployment, and a feature worker if it has one."""
        home, _ = self.home(deployment)
        worker = self.rig.start_worker() if deployment.stream else None
        try:
            if worker is not None:  # it catches up with what was logged before
                self.rig.wait_until(
                    lambda: self.rig.applied() >= self.rig.appended(), _CATCH_UP_S, "the worker's start"
                )
            with api(self.rig, workers, **{"RECSYS_HOME": str(home), **deployment.settings}) as served:
                yield served
        finally:
            if worker is not None:
                self.rig.stop_worker(worker)
