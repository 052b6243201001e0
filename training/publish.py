"""Assemble a bundle from both models' work folders, verify it, and make it the current one."""

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import structlog
from pydantic import Field
from safetensors.numpy import load_file, save_file

from recsys.bundle import FILES, Bundle, Manifest, open_bundle, publish, write_bundle
from recsys.contracts.errors import InvalidBundle, InvalidData
from recsys.features.definitions import FEATURES
from recsys.lake import lake
from recsys.operator_files import read_json
from recsys.ranking.compiled import KERNEL
from recsys.recall.ann import AnnIndex, chosen_for
from recsys.recall.item_vectors import ItemVectors
from recsys.signatures import read_private_key, read_public_keys
from training.compression.export_edge import export_edge
from training.compression.variants import check_publishable
from training.config import Config
from training.features.trust import TRUST, Judgement

_log = structlog.get_logger(__name__)
SUMMARY = "summary.json"
GOLDEN = "golden.safetensors"


class PublishConfig(Config):
    """What to publish, and where."""

    lake: Path = Field(description="The lake that the models were trained on.")
    two_tower: Path = Field(description="Work folder of the two-tower.")
    ranker: Path = Field(description="Work folder of the ranker.")
    bundles: Path = Field(description="Folder of bundles.")
    examples: Path | None = Field(
        None, description="The examples, which say what was left out of the training."
    )
    version: str = Field("", description="Version; empty: the time of publishing.")
    signing_key: Path | None = Field(None, description="Private key that signs it; None: it is not signed.")
    keys: Path | None = Field(None, description="Public keys, one of which must have signed it; None: any.")
    current: bool = Field(True, description="Make it the current bundle.")


def main(config: PublishConfig, clock: Callable[[], float] = time.time) -> Bundle:
    """Write the bundle and return it verified.

    Raises:
        InvalidData: a work folder is incomplete.
        InvalidBundle: the version exists, or the ranker is a variant that failed its gate.
    """
    check_publishable(config.ranker)
    now = datetime.fromtimestamp(clock(), UTC)
    judgement = _judgement(config.examples)
    summaries = {"two_tower": _summary(config.two_tower), "ranker": _summary(config.ranker)}
    manifest = Manifest(
        version=config.version or now.strftime("%Y%m%d-%H%M%S"),
        created_ms=int(now.timestamp() * 1000),
        feature_fingerprint=FEATURES.fingerprint,
        feature_names=FEATURES.names,
        data_window_ms=_window(config.lake),
        seed=summaries["two_tower"].seed,
        metrics={
            f"{model}_{name}": value
            for model, summary in summaries.items()
            for name, value in summary.metrics.items()
        },
        models={model: summary.config for model, summary in summaries.items()},
        repeats=summaries["two_tower"].repeats,
        left_out=judgement.left_out,
        item_weights=judgement.item_weights,
        privacy={model: summary.privacy for model, summary in summaries.items() if summary.privacy},
    )
    signing_key = read_private_key(config.signing_key) if config.signing_key else None
    with write_bundle(config.bundles, manifest, signing_key) as folder:
        shutil.copyfile(config.lake / "items" / "items.parquet", folder / "items.parquet")
        _check_items(folder / "items.parquet")
        for work in (config.two_tower, config.ranker):
            for path in sorted(p for p in work.iterdir() if p.name in FILES and p.name != GOLDEN):
                shutil.copyfile(path, folder / path.name)
        vectors = ItemVectors.of(load_file(folder / "item_vectors.safetensors"))
        AnnIndex.build(vectors.indexed, chosen_for(vectors)).save(folder / "index.faiss")
        golden = load_file(config.two_tower / GOLDEN) | load_file(config.ranker / GOLDEN)
        save_file(golden, folder / GOLDEN)
        if (folder / KERNEL).exists():
            _add_edge(folder)
    keys = read_public_keys(config.keys)
    if config.current:
        return publish(config.bundles, manifest.version, keys)
    return open_bundle(config.bundles / manifest.version, keys)


class _Summary(msgspec.Struct):
    config: dict[str, Any]
    metrics: dict[str, float | None]
    seed: int
    repeats: dict[str, float] = {}
    privacy: dict[str, Any] = {}


def _summary(work: Path) -> _Summary:
    try:
        return read_json(work / SUMMARY, _Summary, InvalidData)
    except FileNotFoundError:
        raise InvalidData(f"{work}: no trained model; run `recsys train all`") from None


def _add_edge(folder: Path) -> None:
    """A model for devices is optional: without it they keep the server's order."""
    try:
        export_edge(folder)
    except InvalidBundle as error:
        _log.warning("the bundle has no model for devices", error=str(error))


def _judgement(examples: Path | None) -> Judgement:
    """An empty one where nothing was judged: examples that another program or an earlier version has built."""
    path = None if examples is None else examples / TRUST
    return read_json(path, Judgement, InvalidData) if path is not None and path.exists() else Judgement()


def _window(folder: Path) -> tuple[int, int]:
    """First and last event time of the lake, Unix milliseconds."""
    days = lake.days(folder)
    if not days:
        raise InvalidData(f"{folder}: no events; import a data set first: `recsys data import`")
    first, last = (lake.read_day(folder, day, columns=(lake.TIME,))[lake.TIME] for day in (days[0], days[-1]))
    return first[0].as_py(), last[-1].as_py()


def _check_items(path: Path) -> None:
    """An item's row is its number in both models, which are trained on the lake's table: sorted by id."""
    ids = pq.read_table(path, columns=["item_id"])["item_id"].to_pylist()
    if ids != sorted(ids):
        raise InvalidData(f"{path}: items must be sorted by item id; import the data set again")
