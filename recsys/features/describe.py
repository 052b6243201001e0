"""The feature set for readers: the table of all features, and what a change of definitions makes invalid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from recsys.features.aggregates import Entity
from recsys.features.feature_set import FeatureSet
from recsys.features.kinds import Attribute
from recsys.features.spec import Feature, HistoryQuery, Match, Total

DEFINITIONS = "_definitions.json"  # next to the examples: the definitions that the newest were built with


@dataclass(frozen=True, slots=True)
class Row:
    """One feature. `columns` are its names in a feature matrix."""

    feature: str
    entity: str
    kind: str
    reads: str
    columns: tuple[str, ...]


def listing(features: FeatureSet) -> list[Row]:
    """One row per feature, in column order."""
    return [
        Row(f.name, f.entity.value.replace("_", " × "), f.kind.replace("_", " "), _reads(f), f.columns)
        for f in features.features
    ]


def markdown(features: FeatureSet) -> str:
    """The same as the Markdown table in docs/features.md; a test compares them."""
    lines = ["| feature | of | kind | reads | columns |", "|---|---|---|---|---|"]
    for row in listing(features):
        columns = ", ".join(f"`{c.removeprefix(row.feature) or c}`" for c in row.columns)
        lines.append(f"| `{row.feature}` | {row.entity} | {row.kind} | {row.reads} | {columns} |")
    return "\n".join(lines) + "\n"


def _reads(feature: Feature) -> str:
    if isinstance(feature, Attribute):
        owner = "request" if feature.entity is Entity.CONTEXT else feature.entity.value
        return f"`{feature.attribute}` of the {owner}"
    parts = [_total(t) for t in feature.totals] + [_history_query(k) for k in feature.history_queries]
    return "; ".join(dict.fromkeys(parts)) or "–"


def _total(total: Total) -> str:
    split = f" by {total.split}" if total.split else ""
    return f"{total.signal.name}{split} of the {total.entity}"


def _history_query(query: HistoryQuery) -> str:
    which = "" if query.match is Match.ANY else f", same {query.match}"
    return f"last {query.newest} {query.history.name}{which}"


class Effect(StrEnum):
    """What a change makes invalid."""

    MODELS = "rebuild the examples and retrain the models"
    STATE = "and its state is new: until a backfill it counts from now on"
    UNUSED_STATE = "and its cells are no longer read: they expire"
    EVERYTHING = "every state is invalid: replay the log into an empty store"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two sets of definitions."""

    what: str  # added, removed, changed, moved
    name: str
    effect: str


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What changed from one `FeatureSet.describe()` to another; empty if their fingerprints are equal."""
    shared = [k for k in ("format", "buckets", "categories_per_event") if old.get(k) != new.get(k)]
    changes = [Change("changed", name, Effect.EVERYTHING) for name in shared]
    changes += _named(old["features"], new["features"], "feature", Effect.MODELS, Effect.MODELS)
    changes += _named(old["state"], new["state"], "state", Effect.STATE, Effect.UNUSED_STATE)
    changes += _named(old["histories"], new["histories"], "history", Effect.STATE, Effect.UNUSED_STATE)
    return changes


def _named(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], noun: str, effect: str, gone: str
) -> list[Change]:
    before, after = ({d["name"]: d for d in definitions} for definitions in (old, new))
    changes = [Change("added", f"{noun} {n}", effect) for n in after if n not in before]
    changes += [Change("removed", f"{noun} {n}", gone) for n in before if n not in after]
    changes += [
        Change("changed", f"{noun} {n}", effect) for n in after if n in before and after[n] != before[n]
    ]
    kept = [[n for n in side if n in before and n in after] for side in (before, after)]
    if noun == "feature" and kept[0] != kept[1]:
        changes.append(Change("moved", "the order of the columns", effect))
    return changes
