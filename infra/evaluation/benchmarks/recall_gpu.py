"""`recsys bench recall --gpu`: batches of queries on a GPU against the same exact search on the CPU."""

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.benchmarks.vectors import learnt_like
from infra.evaluation.timing import median_s
from recsys.contracts.errors import InvalidConfig
from recsys.models.topk import ChunkedTopK
from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.gpu import TopKIndex
from recsys.recall.index_kind import Kind
from recsys.recall.vector_index import VectorIndex
from recsys.result import Goal, Result

_CPU_QUERIES = 32  # exact search of ten million vectors takes a third of a second each


@dataclass(frozen=True)
class GpuBench:
    """Ten million vectors of 64 numbers take 2.6 GB as float32."""

    items: int = 10_000_000
    dimension: int = 64
    batch: int = 256
    batches: int = 20
    k: int = 500
    device: str = "cuda"
    seed: int = 0

    @classmethod
    def quick(cls, seed: int = 0) -> "GpuBench":
        """A tenth of the vectors."""
        return cls(items=1_000_000, batches=5, seed=seed)


def run(config: GpuBench) -> Result:
    """Measure the chunked matrix product, and FAISS on the GPU where its build is installed.

    Raises:
        InvalidConfig: there is no such device.
    """
    data = learnt_like(config.items, config.dimension, config.batch, config.seed)
    cpu = AnnIndex.build(data.items, IndexConfig(Kind.FLAT))
    wanted = cpu.search(data.queries[:_CPU_QUERIES], config.k).rows
    cpu_s = median_s(lambda: cpu.search(data.queries[:1], config.k), 5)
    began = time.perf_counter()
    indexes: dict[str, VectorIndex] = {
        "torch": TopKIndex(ChunkedTopK(data.items, config.device), config.items, config.dimension)
    }
    figures = {
        "cpu_exact_qps": 1 / cpu_s,
        "torch_load_vectors_per_s": config.items / (time.perf_counter() - began),
    }
    try:
        indexes["faiss"] = cpu.to_gpu()
    except InvalidConfig:
        figures["faiss_gpu_available"] = 0.0
    for name, index in indexes.items():
        found = index.search(data.queries[:_CPU_QUERIES], config.k).rows
        seconds = median_s(partial(index.search, data.queries, config.k), config.batches)
        figures[f"{name}_recall_500"] = _recall(found, wanted)
        figures[f"{name}_qps"] = config.batch / seconds
        figures[f"{name}_vectors_per_s"] = config.batch * config.items / seconds
        figures[f"{name}_times_cpu"] = config.batch / seconds * cpu_s
    goals = {"torch_recall_500": Goal(">=", 0.99), "torch_times_cpu": Goal(">", 1)}
    return Result("bench recall --gpu", config.seed, figures, goals)


def _recall(found: NDArray[np.int32], wanted: NDArray[np.int32]) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, wanted, strict=True)]))
