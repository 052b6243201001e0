"""What benchmarks serve: a catalogue, its users' history in the online store, an untrained bundle.

What a request costs does not depend on the weights, as long as lists differ between users: else the item feed and the
worker's writes cost less than they do. The bench reports the share of different items and refuses a small one; in 2,200
lists of 20 of 100 thousand items it is .25, and .03 where all weights are random.
Item vectors are clustered by category, as learnt ones are (random directions are the hard case of an inverted-list
index, see docs/recall-index.md).
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from infra.evaluation.load.stored import fill
from infra.evaluation.load.traffic import zipf
from recsys.bundle import Bundle, Manifest, publish, write_bundle
from recsys.contracts.events import Event, item_context
from recsys.contracts.types import MS_PER_DAY, EventType, Head, Item
from recsys.features.definitions import FEATURES
from recsys.items.item_table import items_table
from recsys.models.blocks import numeric_statistics
from recsys.models.ranker import HEADS, Ranker, RankerData
from recsys.models.two_tower import ServedUserTower, TwoTower, TwoTowerShape
from recsys.native import core
from recsys.recall.ann import AnnIndex
from recsys.recall.nearest import nearest
from recsys.recall.two_tower import UserTower
from recsys.store.base import FeatureStore
from training.compression.export_edge import export_edge
from training.compression.ladder import LadderConfig, quantize_products
from training.compression.quantize import half_weights, quantized_tables
from training.compression.variants import QUANTIZED
from training.ranker.artifacts import GOLDEN, ONNX
from training.ranker.export import export_ranker
from training.ranker.kernel import write_kernel
from training.two_tower.export import export_user_tower
from training.two_tower.kernel import write_tower_kernel

DIMENSION, LENGTH, NEIGHBOURS = 64, 50, 50
CATEGORIES, CREATORS = 32, 2_000
_MIX = (EventType.IMPRESSION, EventType.CLICK, EventType.LIKE)
_SHARES = (0.6, 0.3, 0.1)
HISTORY_TOPIC = "history"  # of its own: the worker starts at the beginning of the real ones


def bench_items(n: int, seed: int) -> list[Item]:
    """Make items, sorted by id; one to three categories each, created over the last 90 days."""
    rng = np.random.default_rng(seed)
    now_ms = time.time_ns() // 1_000_000
    first = rng.integers(0, CATEGORIES, n)
    more = rng.integers(0, CATEGORIES, (n, 2))
    count = rng.integers(0, 3, n)
    creators = rng.integers(0, CREATORS, n)
    ages = rng.uniform(0, 90 * MS_PER_DAY, n).astype(np.int64)
    return [
        Item(
            f"item-{i:07d}",
            f"Item {i}",
            tuple(dict.fromkeys(f"category-{c}" for c in (first[i], *more[i, : count[i]]))),
            f"creator-{creators[i]}",
            int(now_ms - ages[i]),
        )
        for i in range(n)
    ]


def write_history(
    store: FeatureStore, items: Sequence[Item], users: int, events: int, partitions: int, seed: int
) -> None:
    """Apply `events` of the last half hour to the store, users and items by Zipf's law (exponent 1)."""
    rng = np.random.default_rng(seed)
    user = rng.choice(users, events, p=zipf(users, 1.0))
    item = rng.choice(len(items), events, p=zipf(len(items), 1.0))
    kind = rng.choice(len(_MIX), events, p=_SHARES)
    now_ms = time.time_ns() // 1_000_000
    times = now_ms - np.sort(rng.integers(1_000, 30 * 60 * 1_000, events))[::-1]
    found = []
    for i in range(events):
        shown, user_id = items[item[i]], f"user-{user[i]}"
        context = item_context({}, shown.categories, shown.creator)
        kind_i, time_ms = _MIX[kind[i]], int(times[i])
        found.append(Event(f"past-{i}", kind_i, user_id, shown.item_id, time_ms, context=context))
    fill(store, found, partitions, HISTORY_TOPIC)


def write_bench_bundle(bundles: Path, items: Sequence[Item], seed: int, version: str = "bench") -> Bundle:
    """Write and publish it: the default two-tower, the ladder's compiled student, the index that a catalogue of this
    size gets."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vectors = _clustered(items, rng)
    manifest = Manifest(
        version=version,
        created_ms=time.time_ns() // 1_000_000,
        feature_fingerprint=FEATURES.fingerprint,
        feature_names=FEATURES.names,
        data_window_ms=(0, 1),
        seed=seed,
        metrics={},
        models={"two_tower": {}, "ranker": {}},
    )
    with write_bundle(bundles, manifest) as folder:
        export_untrained(bench_ranker(len(items)), folder, seed, "compiled")
        _write_tower(folder, items, vectors)
        if core is not None:
            export_edge(folder)
        save_file({"vectors": vectors}, folder / "item_vectors.safetensors")
        index = AnnIndex.build(vectors)
        index.save(folder / "index.faiss")
        near = nearest(vectors, NEIGHBOURS)
        save_file(
            {"neighbours": near.rows, "scores": np.maximum(near.scores, 0)},
            folder / "item_to_item.safetensors",
        )
        scores = (1 / np.arange(1, len(items) + 1)).astype(np.float32)
        save_file(
            {"rows": rng.permutation(len(items)).astype(np.int32), "scores": scores},
            folder / "popular.safetensors",
        )
        pq.write_table(items_table(items), folder / "items.parquet")
    return publish(bundles, version)


def _clustered(items: Sequence[Item], rng: np.random.Generator) -> NDArray[np.float32]:
    centres = rng.standard_normal((4 * CATEGORIES, DIMENSION), np.float32)
    category = np.array([int(item.categories[0].split("-")[1]) for item in items])
    chosen = 4 * category + rng.integers(0, 4, len(items))
    vectors = centres[chosen] + 0.7 * rng.standard_normal((len(items), DIMENSION), np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def bench_ranker(n_items: int, likeness: float = 300.0) -> Ranker:
    """The ladder's student, which scores a click mostly by the likeness of item and history: `likeness` times the
    product of the item's vector, whose values are about .05, and the history's mean. 0: random weights alone, which
    rank by how often an item was shown, the same for everybody."""
    config = LadderConfig(out=Path()).student
    sample = torch.rand(2_000, FEATURES.dimension) * 100
    data = RankerData(
        n_items,
        FEATURES.dimension,
        *numeric_statistics(sample, config.bins),
        fields=torch.zeros(n_items + 1, 0, dtype=torch.int64),
        field_sizes=(),
    )
    ranker = Ranker(config, data).eval()
    with torch.no_grad():
        # behind the item's vector and what attention found: the item's vector times the history's mean
        ranker.wide.weight[HEADS.index(Head.CLICK), 2 * config.width : 3 * config.width] = likeness
    return ranker


def export_untrained(ranker: Ranker, folder: Path, seed: int, variant: str) -> None:
    """Write `folder`/ranker.onnx and its golden arrays as this variant of the ladder has them; "compiled" without
    compiled code is `rows-int8`."""
    n_items = ranker.data.n_items
    if variant in QUANTIZED:
        ranker = quantized_tables(ranker, bits=8)
    if variant == "compiled":
        ranker = half_weights(ranker)
    golden = export_ranker(ranker, folder / ONNX, n_items, FEATURES.dimension, LENGTH, seed)
    save_file(golden, folder / GOLDEN)
    if variant == "int8":
        quantize_products(folder, folder)
    if variant == "compiled" and core is not None:
        write_kernel(ranker, folder)


def _write_tower(folder: Path, items: Sequence[Item], vectors: NDArray[np.float32]) -> None:
    tower = ServedUserTower(TwoTower(TwoTowerShape(dim=DIMENSION), items).eval()).eval()
    export_user_tower(tower, folder / "user_tower.onnx")
    history = np.arange(1, LENGTH + 1)[None]
    inputs = {"history": history, "types": np.ones_like(history), "gaps": np.ones_like(history)}
    found = UserTower(folder / "user_tower.onnx", vectors).vectors(**inputs)
    golden = {f"user_tower/in/{name}": array for name, array in inputs.items()}
    save_file(load_file(folder / GOLDEN) | golden | {"user_tower/out/user_vector": found}, folder / GOLDEN)
    if core is not None:
        write_tower_kernel(tower, folder, vectors)
