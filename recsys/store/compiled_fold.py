"""The tables of the compiled fold (`recsys.native`), which makes what `BatchEncoder` defines."""

from collections.abc import Mapping
from typing import Any

from recsys.features.aggregates import (
    BUCKETS,
    CATEGORIES_PER_EVENT,
    LOG2_STEPS,
    LOOKS_AT,
    Aggregate,
    Entity,
    Measure,
    Split,
)
from recsys.features.cells import CellCoding
from recsys.features.feature_set import FeatureSet
from recsys.native import core

_NUMBERED = (Measure.ONE, Measure.VALUE, Measure.TIME, Measure.EXAMINED, Measure.LOG2)
_MEASURES = {measure: number for number, measure in enumerate(_NUMBERED)}
_SPLITS = {split: n for n, split in enumerate((Split.NONE, Split.CATEGORY, Split.CREATOR, Split.ITEM))}


def compiled_fold(features: FeatureSet, stored: Mapping[str, int], bucket_ms: int) -> Any:
    """`core.Fold`. `stored`: sizes of the stored histories by name; `bucket_ms`: of event ids."""
    numbers = {
        (aggregate.entity, aggregate.name): number
        for entity in (Entity.USER, Entity.ITEM)
        for number, aggregate in enumerate(CellCoding(features.aggregates, entity).aggregates)
    }

    def rule(a: Aggregate) -> tuple[Any, ...]:
        number = numbers[a.entity, a.name]
        how = _MEASURES[a.measure], _SPLITS[a.split], a.hop_ms, a.min_value, float(a.scale), a.attributed
        return a.entity is Entity.USER, number, str(a.op), *how

    plans = [
        (
            str(type_),
            [rule(a) for a in plan.rules],
            [(once.signal, once.period_ms, [rule(a) for a in once.rules]) for once in plan.once],
            [(h.name, stored[h.name]) for h in plan.histories if h.name in stored],
        )
        for type_, plan in features.plans.items()
    ]
    return core.Fold(plans, bucket_ms, BUCKETS, CATEGORIES_PER_EVENT, LOOKS_AT, LOG2_STEPS)
