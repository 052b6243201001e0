"""The rankers of the case study with untrained weights, in the architectures and sizes of the ladder.

Time, memory and bytes of a network do not depend on its weights. Quality does, so none is ever read from these. The
ids are the ladder's (half a million items, 200 000 creators), whatever is served, or as many as are.
"""

import hashlib
import inspect
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.numpy import load_file, save_file

from infra.evaluation.benchmarks.serving_fixture import export_untrained
from infra.evaluation.case_study.deployments import VariantName
from recsys.bundle import MANIFEST, Bundle, publish, write_bundle
from recsys.features.definitions import FEATURES
from recsys.files import staged_folder
from recsys.models import blocks, ranker
from recsys.models.blocks import numeric_statistics
from recsys.models.ranker import Ranker, RankerData
from recsys.ranking.compiled import KERNEL
from recsys.ranking.edge import EDGE
from training.compression import quantize
from training.compression.ladder import LadderConfig
from training.compression.synthetic import CATEGORIES, LadderData
from training.ranker import export, kernel
from training.ranker.artifacts import GOLDEN, ONNX


def ids_for(items: int) -> int:
    """How many a network knows that serves this many items."""
    return max(LadderData().n_items, items)


def write_network(folder: Path, variant: VariantName, seed: int, ids: int = 0, creators: int = 0) -> Path:
    """Write `folder`/VARIANT with the ranker and its golden outputs, if it is not there yet.

    Args:
        ids, creators: number that the network knows; 0: as the ladder.
    """
    sizes = LadderData()
    ids, creators = ids or sizes.n_items, creators or sizes.n_creators
    there = folder / f"{variant}-{ids}-{seed}-{_code()}"
    if there.exists():
        return there
    torch.manual_seed(seed)
    teacher = variant == "teacher"
    config = LadderConfig(out=folder)
    shape = config.teacher if teacher else config.student
    sample = torch.rand(2_000, FEATURES.dimension) * 100
    # as in the ladder: the student reads only the category, as a byte
    widths = (CATEGORIES + 1, creators + 1) if teacher else (CATEGORIES + 1,)
    fields = torch.stack([torch.randint(width, (ids + 1,)) for width in widths], dim=1)
    data = RankerData(
        ids,
        FEATURES.dimension,
        *numeric_statistics(sample, shape.bins),
        fields=fields if teacher else fields.to(torch.uint8),
        field_sizes=widths,
    )
    with staged_folder(there) as staging:
        export_untrained(Ranker(shape, data).eval(), staging, seed, variant)
    return there


def _code() -> str:
    """Digest of the features and of the code that makes a network: a network of other code is not measured."""
    digest = hashlib.sha256(FEATURES.fingerprint.encode())
    for module in (blocks, ranker, export, quantize, kernel):
        digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()[:12]


def with_network(bundle: Bundle, network: Path, bundles: Path, version: str) -> Bundle:
    """Publish a copy of the bundle whose ranker is this one."""
    with write_bundle(bundles, replace(bundle.manifest, version=version, files={})) as folder:
        for name in bundle.manifest.files.keys() - {ONNX, KERNEL, EDGE}:
            shutil.copyfile(bundle.file(name), folder / name)
        for path in network.glob("ranker*"):
            shutil.copyfile(path, folder / path.name)
        towers = {k: v for k, v in load_file(bundle.file(GOLDEN)).items() if k.startswith("user_tower/")}
        save_file(towers | load_file(network / GOLDEN), folder / GOLDEN)
    return publish(bundles, version)


def bundle_bytes(bundle: Bundle) -> dict[str, int]:
    """File → bytes, the manifest included."""
    return {name: (bundle.path / name).stat().st_size for name in (*bundle.manifest.files, MANIFEST)}
