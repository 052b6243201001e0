"""The shipped set: its size, its cells, its fingerprint, its documentation; and what a change of it invalidates."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.contracts.errors import UnknownFeature
from recsys.contracts.events import CATEGORIES, CREATOR, Event
from recsys.contracts.state import Delta, Op
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType
from recsys.features.aggregates import LOOKS_AT, Entity, bucket_of, log2_amount, looks_at, parse_cell
from recsys.features.definitions import CLICKED, ENGAGED_VISITS, FEATURES, SEEN_VISITS, SHOWN, USER
from recsys.features.describe import Change, Effect, differences, listing, markdown
from recsys.features.feature_set import FeatureSet
from recsys.features.kinds import Count, Ratio
from recsys.features.reference import log2_steps, look_weight
from recsys.features.spec import HistoryQuery, Signal
from recsys.features.windows import EVER, last

DOCS = Path(__file__).parents[3] / "docs" / "features.md"
TIME_MS = 19_000 * MS_PER_DAY + 7 * MS_PER_HOUR


def event(kind: EventType, request_id: str | None = "r", value: float | None = None) -> Event:
    context = {CATEGORIES: "a|b", CREATOR: "ann"}
    return Event("e", kind, "u", "i", TIME_MS, request_id=request_id, value=value, context=context)


def test_at_least_forty_features_of_every_entity() -> None:
    assert len(FEATURES.features) >= 40
    assert {f.entity for f in FEATURES.features} == set(Entity)
    assert FEATURES.dimension == len(FEATURES.names) == len(set(FEATURES.names))
    assert [name for f in FEATURES.features for name in f.columns] == list(FEATURES.names)


def test_an_impression_changes_these_cells() -> None:
    folded = FEATURES.fold(replace(event(EventType.IMPRESSION), position=9))
    assert set(folded.user) == {
        Delta("shown.d@19000", Op.ADD, 1),
        Delta(f"shown.m@{TIME_MS // 300_000}", Op.ADD, 1),
        Delta("looked.d@19000", Op.ADD, 289),
        Delta(f"looked.dca@19000#{bucket_of('a')}", Op.ADD, 289),
        Delta(f"looked.dca@19000#{bucket_of('b')}", Op.ADD, 289),
        Delta(f"looked.dcr@19000#{bucket_of('ann')}", Op.ADD, 289),
        Delta(f"looked.dit@19000#{bucket_of('i')}", Op.ADD, 289),
    }
    assert set(folded.item) == {Delta("shown", Op.ADD, 1), Delta(f"shown.h@{19_000 * 24 + 7}", Op.ADD, 1)}
    assert [history.name for history, _ in folded.visits] == ["shown"]


def test_looks_fall_with_the_position_and_end_as_a_constant() -> None:
    assert [looks_at(position) for position in (None, 0, 1, 2, 9)] == [1000, 1000, 631, 500, 289]
    assert looks_at(100) == looks_at(10**6) == looks_at(99)
    assert list(LOOKS_AT) == [look_weight(position) for position in range(len(LOOKS_AT))], "by 60 digits"


def test_logarithms_are_counted_in_steps_of_an_octave() -> None:
    assert [log2_amount(value) for value in (-1.0, 0.0, 1.0, 3.0, 1023.0)] == [0, 0, 64, 128, 640]
    for value in (0.01, 0.5, 1.5, 59_999.4, 1e12):
        assert log2_amount(value) == log2_steps(value), "by 60 digits"


def test_fold_is_the_fold_of_its_aggregates() -> None:
    for kind in EventType:
        for request_id in (None, "r"):
            for value in (None, -1.0, 2.5, 4.0):
                made = event(kind, request_id, value)
                folded = FEATURES.fold(made)
                for entity, deltas in ((Entity.USER, folded.user), (Entity.ITEM, folded.of_item(set()))):
                    owned = [a for a in FEATURES.aggregates if a.entity is entity and a.accepts(made)]
                    assert sorted(deltas) == sorted(d for a in owned for d in a.fold(made))


def test_events_without_a_request_do_not_count_where_impressions_divide() -> None:
    folded = FEATURES.fold(event(EventType.CLICK, request_id=None))
    cells = {d.cell.partition("@")[0] for d in folded.of_item(set())}
    assert "engagedusers" in cells
    assert "click" not in cells


def test_every_cell_belongs_to_an_aggregate_that_outlives_its_windows() -> None:
    for kind in EventType:
        folded = FEATURES.fold(event(kind, value=4.0))
        for entity, deltas in ((Entity.USER, folded.user), (Entity.ITEM, folded.of_item(set()))):
            for delta in deltas:
                assert FEATURES.aggregate(entity, parse_cell(delta.cell).name) is not None
    for total in FEATURES.totals:
        aggregate = FEATURES.aggregate(total.entity, total.aggregate_name)
        assert aggregate is not None
        assert aggregate.retention_ms >= total.window.retention_ms
    assert FEATURES.aggregate(Entity.USER, "nothing") is None


def test_histories_are_kept_for_models_and_filters() -> None:
    assert {ENGAGED_VISITS, SEEN_VISITS} <= set(FEATURES.histories)


def test_unknown_names_raise() -> None:
    assert FEATURES.names[FEATURES.column("hour")] == "hour"
    with pytest.raises(UnknownFeature, match="no_such"):
        FEATURES.column("no_such")


def test_conflicting_definitions_are_refused() -> None:
    clicks = Count("clicks", USER, CLICKED, over=(EVER,))
    with pytest.raises(ValueError, match="must differ"):
        FeatureSet([clicks, clicks])
    other = Count("others", USER, Signal("click", frozenset({EventType.LIKE})), over=(EVER,))
    with pytest.raises(ValueError, match="two signals"):
        FeatureSet([clicks, other])
    with pytest.raises(ValueError, match="a query reads"):
        HistoryQuery(ENGAGED_VISITS, 53)


def test_the_fingerprint_changes_with_every_part_of_a_definition() -> None:
    ratio = Ratio("ctr", USER, CLICKED, SHOWN, over=(EVER,), alpha=1.0, beta=9.0)
    variants = [
        ratio,
        replace(ratio, name="other"),
        replace(ratio, entity=Entity.ITEM),
        replace(ratio, alpha=2.0),
        replace(ratio, over=(EVER, last(MS_PER_DAY))),
        replace(ratio, part=replace(CLICKED, min_value=1.0)),
    ]
    fingerprints = {FeatureSet([v]).fingerprint for v in variants}
    assert len(fingerprints) == len(variants)
    assert FeatureSet([ratio]).fingerprint == FeatureSet([replace(ratio)]).fingerprint


def test_definitions_survive_json() -> None:
    assert differences(json.loads(json.dumps(FEATURES.describe())), FEATURES.describe()) == []


def test_diff_names_what_changed_and_what_follows() -> None:
    ctr = Ratio("ctr", USER, CLICKED, SHOWN, over=(EVER,), alpha=1.0, beta=9.0)
    shown = Count("shown", USER, SHOWN, over=(EVER,))
    old = FeatureSet([shown, ctr]).describe()

    added = differences(
        old, FeatureSet([shown, ctr, Count("day", USER, SHOWN, over=(last(MS_PER_DAY),))]).describe()
    )
    assert added == [
        Change("added", "feature day", Effect.MODELS),
        Change("added", "state user/shown.h", Effect.STATE),
    ]
    assert differences(old, FeatureSet([shown, replace(ctr, alpha=2.0)]).describe()) == [
        Change("changed", "feature ctr", Effect.MODELS)
    ]
    assert differences(old, FeatureSet([shown]).describe()) == [
        Change("removed", "feature ctr", Effect.MODELS),
        Change("removed", "state user/click", Effect.UNUSED_STATE),
    ]
    assert differences(old, FeatureSet([ctr, shown]).describe()) == [
        Change("moved", "the order of the columns", Effect.MODELS)
    ]
    assert differences(old | {"buckets": 1}, old) == [Change("changed", "buckets", Effect.EVERYTHING)]


def test_the_documented_table_is_the_generated_one() -> None:
    assert markdown(FEATURES) in DOCS.read_text(encoding="utf-8"), "run `recsys features list --markdown`"
    assert len(listing(FEATURES)) == len(FEATURES.features)
