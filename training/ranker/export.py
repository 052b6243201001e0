"""Export a trained ranker: `ranker.onnx`, checked against torch on random valid inputs, and its golden arrays."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import Head
from recsys.files import staged_file
from recsys.models.encoding import N_GAPS, N_TYPES
from recsys.models.ranker import ServedRanker
from recsys.ranking.compiled import ExportedRanker
from recsys.ranking.scorer import INPUTS, OUTPUTS, RankerSession
from training.onnx_export import export_traced

TOLERANCE = 1e-4  # torch against onnxruntime, absolute and relative; both are float32


def random_inputs(
    n_items: int, n_features: int, length: int, candidates: int, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Valid ranker inputs of one request: unknown items, empty histories and odd feature values included."""
    filled = int(rng.integers(0, length + 1))
    history, types, gaps = (np.zeros((1, length), np.int64) for _ in range(3))
    if filled:
        history[0, -filled:] = rng.integers(1, n_items + 1, filled)
        types[0, -filled:] = rng.integers(1, N_TYPES, filled)
        gaps[0, -filled:] = rng.integers(0, N_GAPS, filled)
    features = rng.normal(size=(candidates, n_features)) * 10 ** rng.uniform(-3, 6, (1, n_features))
    odd = rng.random(features.shape) < 0.02
    features[odd] = rng.choice([np.nan, np.inf, -np.inf, 0.0], int(odd.sum()))
    return {
        "history": history,
        "types": types,
        "gaps": gaps,
        "items": rng.integers(0, n_items + 1, candidates),
        "features": features.astype(np.float32),
        "position": np.zeros(candidates, np.int64),
    }


def export_ranker(
    ranker: nn.Module, path: Path, n_items: int, n_features: int, length: int, seed: int
) -> dict[str, NDArray[Any]]:
    """Write `path` and return the golden arrays (`ranker/in/…`, `ranker/out/…`).

    Args:
        ranker: history, types, gaps, items, features, position → `RankerLogits`.

    Raises:
        InvalidBundle: onnxruntime's scores differ from torch's by more than `TOLERANCE`.
    """
    rng = np.random.default_rng(seed)
    served = ServedRanker(ranker).eval()
    example = random_inputs(n_items, n_features, length, 7, rng)
    sizes = {
        name: {1: "events"} if name in ("history", "types", "gaps") else {0: "candidates"} for name in INPUTS
    }
    with staged_file(path) as temporary:
        arguments = {name: torch.from_numpy(example[name]) for name in INPUTS}
        export_traced(served, temporary, arguments, OUTPUTS, sizes)
        return _check_against_torch(served, temporary, n_items, n_features, length, rng)


def _check_against_torch(
    served: nn.Module, model: Path, n_items: int, n_features: int, length: int, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Compare on random requests of several sizes and lengths of history, since a trace may have kept those of its
    example; the last one becomes the golden one."""
    session = RankerSession(model)
    arrays: dict[str, NDArray[Any]] = {}
    found: Mapping[Head, NDArray[np.float32]] = {}
    sizes = (1, length), (2, 1), (500, 2 * length), (33, length + 1), (64, length)
    for candidates, events in sizes:
        arrays = random_inputs(n_items, n_features, events, candidates, rng)
        found = session.run(arrays)
        with torch.inference_mode():
            expected = served(*(torch.from_numpy(arrays[name]) for name in INPUTS))
        for head, wanted in zip(Head, expected, strict=True):
            difference = np.abs(found[head] - wanted.numpy())
            if not (difference <= TOLERANCE + TOLERANCE * np.abs(wanted.numpy())).all():
                raise InvalidBundle(
                    f"{model.name}: {head} differs from torch by {np.nanmax(difference):.2g} on {candidates} candidates"
                    f" and {events} events"
                )
    golden = {f"ranker/in/{name}": array for name, array in arrays.items()}
    return golden | {f"ranker/out/{head}": scores for head, scores in found.items()}


def call_ms(ranker: ExportedRanker, inputs: dict[str, NDArray[Any]], calls: int) -> list[float]:
    """Milliseconds of each of `calls` calls."""
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        ranker.run(inputs)
        times.append(1e3 * (time.perf_counter() - started))
    return times
