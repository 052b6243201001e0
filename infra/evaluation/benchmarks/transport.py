"""`recsys bench transport`: what it costs to rank in another process.

The same ranker on the same 500 candidates: in this process, and in `recsys serve --role rank` over a Unix socket and
over TCP on this machine. One call at a time; the three take turns. The transport is the difference of the medians.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from infra.evaluation.benchmarks.serving_fixture import bench_items, write_bench_bundle
from infra.evaluation.benchmarks.serving_floors import ranker_inputs
from infra.evaluation.timing import percentiles_ms, take_turns
from infra.local.children import Children
from infra.local.process import free_port
from recsys.contracts.errors import Unavailable
from recsys.ranking.compiled import open_ranker
from recsys.ranking.scorer import Ranker
from recsys.result import Goal, Result
from serving.remote.client import RemoteRanker
from serving.remote.messages import PREPARE, Prepare
from serving.remote.transport import RpcClient

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
        ways: dict[str, Ranker] = {"in_process": open_ranker(bundle.path)}
        for name, url in (("uds", f"unix:{socket}"), ("tcp", f"http://127.0.0.1:{port}")):
            ways[name] = RemoteRanker(stack.enter_context(_ready(children, name, url)), "bench")
        inputs = ranker_inputs(config.items, config.candidates, np.random.default_rng(config.seed))
        forms = {name: partial(ranker.run, inputs) for name, ranker in ways.items()}
        times = take_turns(forms, config.rounds, config.rounds // 10)
    figures: dict[str, float] = {}
    for name, seconds in times.items():
        figures |= percentiles_ms(name, [1e3 * s for s in seconds])
    for name in ("uds", "tcp"):
        figures[f"transport_{name}_ms"] = figures[f"{name}_p50_ms"] - figures["in_process_p50_ms"]
    figures["request_bytes"] = float(sum(array.nbytes for array in inputs.values()))
    return Result("bench transport", config.seed, figures, {"transport_uds_ms": Goal("<=", 1.0)})


@contextmanager
def _ready(children: Children, name: str, url: str) -> Iterator[RpcClient]:
    """A connection to a process that has loaded the bundle."""

    def loaded() -> bool:
        client = RpcClient(url, _TIMEOUT_S)
        try:
            return client.call(PREPARE, Prepare("bench"), bool)
        except Unavailable:
            return False
        finally:
            client.close()

    children.wait(name, loaded, _START_TIMEOUT_S)
    client = RpcClient(url, _TIMEOUT_S)
    yield client
    client.close()
