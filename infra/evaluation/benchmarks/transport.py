"""`recsys bench transport`: what it costs to rank in another process.

The same ranker on the same 500 candidates: in this process, and in a process of `recsys serve --role rank` over a Unix
socket and over TCP on this machine. One call at a time; the three take turns, so that whatever else the machine does
meets all of them. The hop is the difference of the medians.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.benchmarks.serving_bundle import LENGTH, write_bench_bundle
from infra.evaluation.benchmarks.serving_fixture import bench_items
from infra.local.children import Children
from infra.local.process import free_port
from recsys.contracts.errors import Unavailable
from recsys.features.definitions import FEATURES
from recsys.ranking.scorer import Ranker, RankerSession
from recsys.result import Goal, Result
from serving.remote.client import RemoteRanker
from serving.remote.service import PREPARE, Prepare
from serving.remote.transport import Hop

_START_TIMEOUT_S = 120.0
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class TransportBench:
    seed: int = 0
    items: int = 20_000
    candidates: int = 500
    rounds: int = 1_000

    @classmethod
    def quick(cls, seed: int) -> "TransportBench":
        return cls(seed, items=2_000, rounds=100)


def run(config: TransportBench) -> Result:
    """Median and p99 of each way, and the bytes that travel."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-transport-")))
        bundle = write_bench_bundle(home / "bundles", bench_items(config.items, config.seed), config.seed)
        children = stack.enter_context(Children(home, {"RECSYS_HOME": str(home), "OMP_NUM_THREADS": "1"}))
        port, socket = free_port(), home / "rank.sock"
        children.start("uds", "serve", "--role", "rank", "--uds", str(socket))
        children.start("tcp", "serve", "--role", "rank", "--port", str(port))
        ways: dict[str, Ranker] = {"in_process": RankerSession(bundle.file("ranker.onnx"))}
        for name, url in (("uds", f"unix:{socket}"), ("tcp", f"http://127.0.0.1:{port}")):
            ways[name] = RemoteRanker(stack.enter_context(_ready(children, name, url)), "bench")
        inputs = _inputs(config)
        times = _taking_turns(ways, inputs, config.rounds)
    figures = {
        f"{name}_{q}_ms": float(np.percentile(ms, p))
        for name, ms in times.items()
        for q, p in (("p50", 50), ("p99", 99))
    }
    for name in ("uds", "tcp"):
        figures[f"transport_{name}_ms"] = figures[f"{name}_p50_ms"] - figures["in_process_p50_ms"]
    figures["request_bytes"] = float(sum(array.nbytes for array in inputs.values()))
    return Result("bench transport", config.seed, figures, {"transport_uds_ms": Goal("<=", 1.0)})


@contextmanager
def _ready(children: Children, name: str, url: str) -> Iterator[Hop]:
    """A hop to a process that has loaded the bundle."""

    def loaded() -> bool:
        hop = Hop(url, _TIMEOUT_S)
        try:
            return hop.call(PREPARE, Prepare("bench"), bool)
        except Unavailable:
            return False
        finally:
            hop.close()

    children.wait(name, loaded, _START_TIMEOUT_S)
    hop = Hop(url, _TIMEOUT_S)
    yield hop
    hop.close()


def _inputs(config: TransportBench) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(config.seed)
    history = rng.integers(1, config.items + 1, (1, LENGTH))
    ones = np.ones_like(history)
    return {
        "history": history,
        "types": ones,
        "gaps": ones,
        "items": rng.integers(1, config.items + 1, config.candidates),
        "features": rng.gamma(1, 10, (config.candidates, FEATURES.dimension)).astype(np.float32),
        "position": np.zeros(config.candidates, np.int64),
    }


def _taking_turns(
    ways: dict[str, Ranker], inputs: dict[str, NDArray[np.generic]], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of each call by way, after a tenth to warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + rounds // 10):
        for name, ranker in ways.items():
            began = time.perf_counter()
            ranker.run(inputs)
            times[name].append((time.perf_counter() - began) * 1e3)
    return {name: ms[rounds // 10 :] for name, ms in times.items()}
