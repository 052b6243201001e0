"""Bundles whose ranker is a student, with its model for devices. They need torch, and a second or two."""

from pathlib import Path

from safetensors.numpy import load_file, save_file

from recsys.bundle import Bundle
from recsys.features.definitions import FEATURES
from tests.bundles import tiny_items, write_tiny_bundle
from tests.recsys.ranking.students import student
from training.compression.export_edge import export_edge
from training.compression.quantize import half_weights
from training.ranker.export import export_ranker
from training.ranker.kernel import write_kernel


def write_edge_bundle(
    bundles: Path, version: str, seed: int = 0, current: bool = True, created_ms: int = 1_750_000_000_000
) -> Bundle:
    """As `write_tiny_bundle`; a student with random weights ranks."""
    n = len(tiny_items())

    def replace_ranker(folder: Path) -> None:
        ranker = half_weights(student(seed, n_items=n, n_features=FEATURES.dimension))
        golden = export_ranker(ranker, folder / "ranker.onnx", n, FEATURES.dimension, 50, seed)
        save_file(load_file(folder / "golden.safetensors") | golden, folder / "golden.safetensors")
        write_kernel(ranker, folder)
        export_edge(folder)

    return write_tiny_bundle(
        bundles, version, seed=seed, current=current, created_ms=created_ms, finish=replace_ranker
    )
