"""How large a night's update is, of the model for devices and of the ranker that servers read: successive trainings of
a student on synthetic ids.

As `recsys train nightly` does: the network continues from the night before with new rows, which are then its own.
"""

import copy
import zlib
from itertools import pairwise

import numpy as np
from safetensors.numpy import save

from infra.terminal import console
from recsys.bundle_delta import WIDTHS
from recsys.deltas import delta, difference, planes
from recsys.models.ranker import Ranker, RankerConfig
from serving.engine.device_models import BASES
from training.compression.export_edge import edge_model
from training.compression.ladder import STUDENT
from training.compression.ladder_input import synthetic_input
from training.compression.quantize import half_weights, prune_experts, quantized_tables
from training.compression.synthetic import LadderData
from training.nightly.ranker import NIGHT
from training.ranker.kernel import kernel_arrays
from training.ranker.loop import LoopConfig, fit
from training.seeding import seed_everything

_FIRST = LoopConfig(epochs=2, learning_rate=3e-3, weight_decay=1e-2, embedding_decay=0.3)
_SHARE = 0.5  # of the rows train the first model; the nights share the rest


def update_figures(data: LadderData, nights: int, student: RankerConfig = STUDENT) -> dict[str, float]:
    """Bytes of both models and of each night's deltas: for devices from the `BASES` models before, for servers from the
    last one."""
    seed_everything(data.seed)
    given = synthetic_input(data, student, student)
    rows = given.train
    first = int(_SHARE * len(rows))
    ranker = prune_experts(Ranker(student, given.student_data), 0.25)
    fit(ranker, rows.take(slice(first)), given.validation, _FIRST.replace(seed=data.seed))
    exported = [_exported(ranker)]
    for night in range(nights):
        cut = [first + (len(rows) - first) * n // nights for n in (night, night + 1)]
        ranker = copy.deepcopy(ranker)
        fit(ranker, rows.take(slice(*cut)), given.validation, NIGHT.replace(seed=night))
        exported.append(_exported(ranker))
        console.print(f"night {night + 1} of {nights}")
    models, rankers = zip(*exported, strict=True)
    updates = {
        back: [len(delta(models[i - back], models[i])) for i in range(back, len(models))]
        for back in range(1, BASES + 1)
    }
    median = float(np.median([size for sizes in updates.values() for size in sizes]))
    server = float(np.median([_server_delta(*nights) for nights in pairwise(rankers)]))
    return {
        "model_bytes": len(models[-1]),
        "model_deflated_bytes": len(zlib.compress(models[-1], 9)),
        **{f"update_{back}_nights_bytes": float(np.median(sizes)) for back, sizes in updates.items()},
        "update_median_bytes": median,
        "server_ranker_bytes": len(rankers[-1]),
        "update_over_server_ranker": median / len(rankers[-1]),
        "server_update_median_bytes": server,
        "server_update_over_ranker": server / len(rankers[-1]),
    }


def _server_delta(before: bytes, after: bytes) -> int:
    """Bytes of what `recsys bundle delta` writes of the file."""
    change = difference(before, after)
    return min(len(zlib.compress(planes(change, width))) for width in WIDTHS)


def _exported(ranker: Ranker) -> tuple[bytes, bytes]:
    """`edge.onnx` and `ranker_kernel.safetensors`."""
    arrays = kernel_arrays(half_weights(quantized_tables(ranker, bits=8)))
    assert arrays is not None  # noqa: S101 - the ladder's student has the kernel's shape
    return edge_model(arrays, {}), save(arrays)
