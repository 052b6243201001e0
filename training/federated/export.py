"""Export the federated model as the two-tower's part of a bundle (`recsys.bundle.FILES`), from what the server knows.

The server has no history of anybody: similar items come from the vectors, golden inputs from random histories.
Popularity is how many clients have each item, counted in the open by the simulation; real devices would need a secure
sum. The counts are published as they are.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import lsmr

from recsys.contracts.errors import InvalidBundle
from recsys.models.attributes import hash_attributes
from recsys.recall.compiled_tower import KERNEL
from recsys.recall.item_vectors import gathered
from recsys.recall.two_tower import GAPS, HISTORY, ITEMS, OUTPUT, TYPES, UserTower
from recsys.result import to_json
from training.federated.streams import Stream
from training.federated.tower import PooledTower
from training.federated.train import FederatedResult
from training.onnx_export import export_traced
from training.two_tower.export import TOLERANCE, USER_TOWER, TowerInputs, invented_inputs, nearest_items
from training.two_tower.warm_start import SUMMARY
from training.warm_start import WARM_START

_BUCKETS = 4096  # of hashed attributes
_DAMPING = 0.5  # of the attributes' fit: words of few items stay short


def main(result: FederatedResult, work: Path, neighbours: int = 50, served_length: int = 50) -> Path:
    """Export the model; gives the work folder.

    Args:
        neighbours: m of `item_to_item.safetensors`.
        served_length: length of the golden histories (any length can be served).

    Raises:
        InvalidBundle: the exported tower does not compute what torch computes.
    """
    work.mkdir(parents=True, exist_ok=True)
    for name in (KERNEL, SUMMARY, WARM_START):  # of another training; the next night trains in full
        (work / name).unlink(missing_ok=True)
    vectors, tower = result.vectors, PooledTower(result.config.shape).eval()
    export_pooled(tower, vectors.shape[1], work / USER_TOWER)
    golden = invented_inputs(len(vectors), Stream.GOLDEN.rng(result.config.seed), served_length)
    expected = check_tower(tower, work / USER_TOWER, vectors, golden)
    arrays = {f"user_tower/in/{name}": array for name, array in golden.items()}
    save_file(arrays | {f"user_tower/out/{OUTPUT}": expected}, work / "golden.safetensors")
    save_file(
        {"vectors": vectors, "attributes": attribute_vectors(result)}, work / "item_vectors.safetensors"
    )
    similar, scores = nearest_items(vectors, neighbours)
    save_file({"neighbours": similar, "scores": scores}, work / "item_to_item.safetensors")
    popular = np.maximum(result.seen_by, int(not result.seen_by.any())).astype(np.float32)
    order = np.argsort(-popular, kind="stable").astype(np.int32)
    save_file({"rows": order, "scores": popular[order]}, work / "popular.safetensors")
    summary = {
        "config": result.config.model_dump(mode="json"),
        "metrics": {},  # no quality: the server has nothing to hold out
        "seed": result.config.seed,
        "privacy": dict(result.privacy),
    }
    (work / SUMMARY).write_text(to_json(summary, indent=2), encoding="utf-8")
    return work


def export_pooled(tower: PooledTower, dim: int, path: Path) -> None:
    """ONNX with dynamic batch and length."""
    numbers = [torch.ones(2, 3, dtype=torch.int64) for _ in (TYPES, GAPS)]
    inputs = dict(zip((ITEMS, TYPES, GAPS), (torch.ones(2, 3, dim), *numbers), strict=True))
    export_traced(tower, path, inputs, [OUTPUT], {name: {0: "batch", 1: "length"} for name in inputs})


def check_tower(
    tower: PooledTower, path: Path, vectors: NDArray[np.float32], inputs: TowerInputs
) -> NDArray[np.float32]:
    """The exported tower's output for `inputs`, (cases, d), compared with torch on all cases and on cut ones.

    Raises:
        InvalidBundle: an output differs by more than `TOLERANCE`.
    """
    served = UserTower(path, vectors)
    for length in (inputs[HISTORY].shape[1], 1, 2, 7):
        part = {name: np.ascontiguousarray(array[:, -length:]) for name, array in inputs.items()}
        with torch.inference_mode():
            items = torch.from_numpy(gathered(vectors, part[HISTORY]))
            ours = tower(items, torch.from_numpy(part[TYPES]), torch.from_numpy(part[GAPS])).numpy()
        difference = float(np.abs(ours - served.vectors(**part)).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(ours).max())):
            raise InvalidBundle(f"{path}: differs from torch by {difference:.2g} on length {length}")
    return served.vectors(**inputs)


def attribute_vectors(result: FederatedResult) -> NDArray[np.float32]:
    """(1 + buckets, d): vectors of attributes whose means come nearest to the items' vectors (ridge regression), for
    items that are added later. The catalogue is public, so this tells nothing of clients."""
    slots = hash_attributes(result.items, _BUCKETS)
    rows, columns = np.nonzero(slots)
    shares = 1 / np.maximum((slots > 0).sum(1), 1)
    means = csr_matrix((shares[rows], (rows, slots[rows, columns])), (len(slots), 1 + _BUCKETS))
    fitted = [lsmr(means, column, damp=_DAMPING)[0] for column in result.vectors.T.astype(np.float64)]
    return np.ascontiguousarray(np.stack(fitted, axis=1), np.float32)
