"""A night's update of the ranker: continue from yesterday's weights with the new examples.

The network keeps its shape and the statistics of its inputs. Rows of items and of field values are carried over by
name; new ones start like an unknown item. A night learns from labels alone, without a teacher; the next full training
distils again.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import load_file

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import MS_PER_SECOND, Item
from recsys.items.item_table import read_items
from recsys.models.ranker import Ranker
from recsys.native import core
from recsys.ranking.compiled import open_ranker
from recsys.ranking.taste import read_taste
from training.compression.gates import OVERLAP, top_overlap
from training.compression.ladder import quantize_products, score_requests
from training.compression.quantize import half_weights, quantized_tables
from training.compression.variants import COMPILED, Variant, ranked_with, read_variant
from training.config import Config
from training.ranker.artifacts import SHAPE, VARIANT, ranker_of, read_shape, save_trained
from training.ranker.dataset import ItemFields, RankExamples, item_fields, read_examples, temporal_split
from training.ranker.fit_taste import TasteOffsets, keep_taste
from training.ranker.kernel import write_kernel
from training.ranker.loop import LoopConfig, fit, predict, selection_score
from training.ranker.train import ranker_warm_start, write_ranker, write_summary
from training.seeding import seed_everything
from training.warm_start import FULL, WEIGHTS, WarmStart, old_numbers, read_warm_start

# of a variant's embedding rows
_BITS = {"rows-fp16": 16, "rows-int8": 8, "rows-int4": 4, "int8": 8, COMPILED: 8}
NIGHT = LoopConfig(epochs=1, learning_rate=5e-4, batch_size=512)
_JUDGED = 2_000  # newest validation rows, whose lists show what 8 bits change


class RankerUpdate(Config):
    """Everything that decides an update."""

    n_features: int = Field(description="D of the examples: `FEATURES.dimension`.")
    examples: Path = Field(description="Folder of the examples.")
    items: Path = Field(description="The item table, items.parquet.")
    work: Path = Field(description="Yesterday's work folder; only read.")
    out: Path = Field(description="The new work folder.")
    history_length: int = Field(50, ge=1, description="Newest events of each history.")
    item_attributes: tuple[str, ...] = Field((), description="As in the full training.")
    validation: float = Field(
        0.1, gt=0, lt=1, description="Latest share of the rows; trained on a night later."
    )
    loop: LoopConfig = Field(NIGHT, description="How long and how fast.")
    threads: int = Field(1, ge=1, description="Threads of torch.")


@dataclass(frozen=True)
class UpdateReport:
    """Scores: mean of click AUC and GAUC on the validation rows (`selection_score`)."""

    score_before: float
    score_after: float
    examples: int
    metrics: dict[str, float]

    @property
    def learnt(self) -> bool:
        """False: the update made it worse, so yesterday's weights stay."""
        return self.score_after >= self.score_before


def main(config: RankerUpdate) -> UpdateReport:
    """Continue from `work` with the newer examples, and write to `out` what `recsys train rank` would.

    Raises:
        InvalidConfig: yesterday's ranker had other features, history or numbering.
        InvalidData: there is none, or nothing is new.
    """
    torch.set_num_threads(config.threads)
    seed_everything(config.loop.seed)
    previous, items = read_warm_start(config.work), read_items(config.items)
    facts = item_fields(items, config.item_attributes, known=previous.fields)
    rows = new_examples(config, previous, items)
    train, validation = temporal_split(rows, config.validation)
    now = ranker_warm_start(items, facts, config.item_attributes, train, previous.nights + 1)
    previous.check(now.must_agree)

    ranker = carried_over(config.work, previous, items, facts)
    before, after = continue_training(ranker, train, validation, config.loop)

    metrics = _write(ranker, train, validation, config)
    now.write(config.out)
    keep_taste(read_taste(config.work), config.out)
    write_summary(config.out, config, metrics, config.loop.seed, [(1, after)])
    return UpdateReport(before, after, len(rows), metrics)


def continue_training(
    ranker: Ranker, train: RankExamples, validation: RankExamples, loop: LoopConfig
) -> tuple[float, float]:
    """Train in place and give the validation scores before and after. If they fell, the weights are restored."""
    before = selection_score(predict(ranker, validation), validation)
    weights = {name: weight.clone() for name, weight in ranker.state_dict().items()}
    fit(ranker, train, validation, loop)
    after = selection_score(predict(ranker, validation), validation)
    if after < before:
        ranker.load_state_dict(weights)
    return before, after


def new_examples(config: RankerUpdate, previous: WarmStart, items: Sequence[Item]) -> RankExamples:
    """The examples after the newest that yesterday's ranker was trained on, also when nights were missed."""
    newest = datetime.fromtimestamp(previous.trained_until_ms / MS_PER_SECOND, UTC).date().isoformat()
    days = [path.name[3:] for path in config.examples.glob("dt=*") if path.name[3:] >= newest]
    ids = [item.item_id for item in items]
    if days:
        taste = read_taste(config.work)
        offset = TasteOffsets(taste, items) if taste else None
        rows = read_examples(config.examples, ids, config.n_features, config.history_length, days, offset)
        rows = rows.take(rows.time_ms > previous.trained_until_ms)
        if len(rows):
            return rows
    raise InvalidData(f"{config.examples}: no examples since {newest}; run `recsys features build` first")


def carried_over(folder: Path, previous: WarmStart, items: Sequence[Item], facts: ItemFields) -> Ranker:
    """Yesterday's ranker, for today's item table.

    Raises:
        InvalidConfig: its items share rows by their numbers, and the numbers have changed.
    """
    weights, shape = load_file(folder / WEIGHTS), read_shape(folder / SHAPE)
    ids = [item.item_id for item in items]
    if shape.item_buckets and ids[: len(previous.item_ids)] != list(previous.item_ids):
        raise InvalidConfig(f"{folder}: items share rows by their numbers, which have changed; {FULL}")
    weights["fields"] = torch.from_numpy(facts.codes)
    if not shape.item_buckets:
        weights["item.weight"] = weights["item.weight"][torch.from_numpy(old_numbers(previous.item_ids, ids))]
    for i, size in enumerate(facts.sizes):
        rows = weights[f"field.{i}.weight"]
        weights[f"field.{i}.weight"] = torch.cat([rows, rows[:1].expand(size - len(rows), -1)])
    return ranker_of(shape, weights, facts.sizes)


def _write(
    ranker: Ranker, train: RankExamples, validation: RankExamples, config: RankerUpdate
) -> dict[str, float]:
    """Write it with the precision that yesterday's had: a variant of the ladder stays that variant."""
    out, seed = config.out, config.loop.seed
    variant = read_variant(config.work).name if (config.work / VARIANT).exists() else ""
    served = quantized_tables(ranker, _BITS[variant]) if variant in _BITS else ranker
    served = half_weights(served) if variant == COMPILED else served
    metrics = write_ranker(served, train, validation, out, seed)
    overlap = 1.0
    if variant == "int8":
        variant, overlap = _quantized_products(out, validation.take(slice(-_JUDGED, None)))
    if variant == COMPILED:
        if core is None:
            variant = "rows-int8"
        else:
            write_kernel(served, out)
    save_trained(ranker, out)
    if variant:
        Variant(variant, ranked_with(out).stat().st_size, metrics, overlap, ()).write(out)
    return metrics


def _quantized_products(out: Path, judged: RankExamples) -> tuple[str, float]:
    """Quantize the matrix products of `out`'s ranker to 8 bits if its lists stay as similar as the ladder's gate asks;
    else they stay in 32 bits until the next full training. Gives the variant and the overlap of the lists."""
    products = out / "products"
    products.mkdir()
    quantize_products(out, products)
    ours, theirs = (score_requests(open_ranker(folder), judged) for folder in (products, out))
    overlap = top_overlap(ours, theirs)
    if overlap >= OVERLAP:
        for path in products.iterdir():
            path.replace(out / path.name)
    shutil.rmtree(products)
    return ("int8", overlap) if overlap >= OVERLAP else ("rows-int8", 1.0)
