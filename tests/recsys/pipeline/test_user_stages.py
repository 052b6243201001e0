"""Hydrators and filters: from the stored history to model inputs and hidden items."""

from typing import cast

import numpy as np
from msgspec.structs import replace

from recsys.contracts.request import Query
from recsys.contracts.state import EntityState, Visit
from recsys.contracts.types import MS_PER_DAY, EventType, Item
from recsys.features.definitions import DISLIKED_VISITS, ENGAGED_VISITS, SEEN_VISITS
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility
from recsys.models.encoding import TYPE_NUMBERS
from recsys.pipeline import hydrators
from recsys.pipeline.filters import DeletedFilter, EligibleFilter, SeenFilter
from recsys.pipeline.hydrators import EligibilityHydrator, HistoryHydrator, UserHydrator
from recsys.pipeline.stages import Filter, QueryHydrator
from recsys.recall.repeat_consumption import RepeatPolicy
from recsys.store.base import FeatureStore
from tests.recsys.pipeline.fakes import no_channels


def visit(item_id: str, time_ms: int) -> Visit:
    return Visit(time_ms, f"e{time_ms}", EventType.CLICK, item_id, ())


STATE = EntityState(
    cells={"click": 3},
    histories={
        ENGAGED_VISITS.name: [visit("a", 1000), visit("new", 2000), visit("b", 3000), visit("a", 4000)],
        SEEN_VISITS.name: [visit("c", 1), visit("c", 3), visit("gone", 4)],
        DISLIKED_VISITS.name: [visit("b", 2)],
    },
)


class Store:
    def user(self, user_id: str) -> EntityState:
        return STATE if user_id == "u1" else EntityState()


def catalogue() -> Catalogue:
    found = Catalogue([Item("a"), Item("b"), Item("c")])
    found.put([Item("new")])
    return found


def test_names_of_the_histories_are_those_of_the_definitions() -> None:
    of_definitions = (ENGAGED_VISITS.name, SEEN_VISITS.name, DISLIKED_VISITS.name)
    assert of_definitions == (hydrators.ENGAGED, hydrators.SEEN, hydrators.DISLIKED)


def test_a_user_is_known_when_there_is_state() -> None:
    stage: QueryHydrator = UserHydrator(cast(FeatureStore, Store()), lambda user_id, state: {"age": "30"})
    known = stage.hydrate_query(Query("r", "u1", 3, 0))
    assert known.known
    assert known.user == STATE
    assert known.attributes == {"age": "30"}
    assert not stage.hydrate_query(Query("r", "u2", 3, 0)).known


def test_histories_become_arrays() -> None:
    stage: QueryHydrator = HistoryHydrator(catalogue(), length=4)
    query = stage.hydrate_query(
        replace(Query("r", "u1", 3, 5000), user=STATE, excluded_items=frozenset({"c", "a", "gone"}))
    )
    assert query.history.tolist() == [0, 1, 2, 1]  # "new" came after the bundle: the model does not know it
    assert query.types.tolist() == [0, *[TYPE_NUMBERS[EventType.CLICK]] * 3]
    assert query.gaps[0] == 0
    assert (query.gaps[1:] > 0).all()
    assert query.recent_rows.tolist() == [0, 1, 3]  # newest first, each once, new items too
    assert query.seen_rows.tolist() == [1, 2]
    assert query.excluded_rows.tolist() == [0, 2]
    assert query.hidden == 4
    assert query.may_show(np.arange(4, dtype=np.int32)).tolist() == [False, False, False, True]


def test_items_that_may_return_are_not_hidden() -> None:
    seen = [
        Visit(1, "1", EventType.PURCHASE, "a", ()),
        Visit(2, "2", EventType.ADD_TO_CART, "b", ()),
        Visit(3, "3", EventType.CLICK, "c", ()),
    ]
    query = replace(Query("r", "u1", 3, 5000), user=EntityState({}, {SEEN_VISITS.name: seen}))
    default = HistoryHydrator(catalogue(), length=4).hydrate_query(query)
    assert (default.seen_rows.tolist(), default.repeat_rows.tolist()) == ([0, 1, 2], [])
    policy = RepeatPolicy({EventType.ADD_TO_CART: 0, EventType.PURCHASE: 4_000 / MS_PER_DAY})
    both = HistoryHydrator(catalogue(), 4, policy).hydrate_query(query)
    assert (both.seen_rows.tolist(), both.repeat_rows.tolist()) == ([2], [1, 0])
    disliked = {SEEN_VISITS.name: seen, DISLIKED_VISITS.name: [Visit(4, "4", EventType.DISLIKE, "b", ())]}
    asked = replace(query, allow_seen=True, user=EntityState({}, disliked))
    everything = HistoryHydrator(catalogue(), length=4).hydrate_query(asked)
    assert everything.seen_rows.tolist() == [1], "what the user dislikes stays away"


def test_an_unknown_user_has_empty_histories() -> None:
    query = HistoryHydrator(catalogue(), length=4).hydrate_query(Query("r", "u2", 3, 5000))
    assert query.history.tolist() == [0, 0, 0, 0]
    assert len(query.recent_rows) == len(query.seen_rows) == len(query.excluded_rows) == 0


def test_the_seen_filter_is_exact_for_a_thousand_items() -> None:
    seen = np.random.default_rng(0).choice(5000, 1000, replace=False)
    stage: Filter = SeenFilter()
    removed = stage.remove(
        replace(
            Query("r", "u", 3, 0),
            seen_rows=np.sort(seen).astype(np.int32),
            excluded_rows=np.array([7], np.int32),
        ),
        no_channels(np.arange(5000, dtype=np.int32)),
    )
    assert set(np.flatnonzero(removed["seen"]).tolist()) == set(seen.tolist())
    assert np.flatnonzero(removed["excluded"]).tolist() == [7]


def test_deleted_items_are_removed() -> None:
    items = catalogue()
    items.delete(["b", "new"])
    stage: Filter = DeletedFilter(items)
    removed = stage.remove(Query("r", "u", 3, 0), no_channels(np.arange(4, dtype=np.int32)))
    assert removed["deleted"].tolist() == [False, True, False, True]


def test_a_query_that_another_catalogue_has_hydrated_is_hydrated_anew() -> None:
    """As the shadow's is: rows, masks and returning items of one bundle are nothing to another."""
    other = Eligibility(Catalogue([Item("gone", available_until_ms=1), Item("x")]))
    query = EligibilityHydrator(other).hydrate_query(
        Query("r", "u", 3, 99, repeat_rows=np.array([1], np.int32))
    )
    assert query.eligible is not None
    items = Catalogue([Item("x"), Item("y")])
    again = EligibilityHydrator(Eligibility(items)).hydrate_query(query)
    assert again.eligible is None
    for native in (False, True):
        assert HistoryHydrator(items, 4, native=native).hydrate_query(again).repeat_rows.tolist() == []


def test_deleted_items_are_no_choice() -> None:
    items = Catalogue([*(Item(f"i{n}") for n in range(10)), Item("later", created_ms=100)])
    items.delete(["i0", "i1", "i2", "i3"])
    hydrator = EligibilityHydrator(Eligibility(items))
    alive, deleted = ([f"i{n}" for n in numbers] for numbers in (range(4, 10), range(4)))
    for now_ms in (99, 100):  # of 6 and of 7 items
        for excluded, narrowed_from in ((deleted, 100), (alive[:3], 97), (alive[:4], 0)):
            query = Query("r", "u", 1, now_ms, excluded_items=frozenset(excluded))
            assert hydrator.hydrate_query(query).narrowed_from == narrowed_from


def test_items_come_out_with_the_clock_alone() -> None:
    items = Catalogue([Item("out", created_ms=5), Item("undated"), Item("later", created_ms=100)])
    eligibility = Eligibility(items)
    stage: Filter = EligibleFilter(eligibility)
    every = no_channels(np.arange(3, dtype=np.int32))
    for now_ms, upcoming in ((99, [2]), (100, []), (4, [0, 2]), (99, [2])):
        query = EligibilityHydrator(eligibility).hydrate_query(Query("r", "u", 3, now_ms))
        removed = stage.remove(query, every)
        assert np.flatnonzero(removed.get("upcoming", [])).tolist() == upcoming
        assert np.flatnonzero(~query.may_show(every.rows)).tolist() == upcoming
        assert query.hidden == len(upcoming)
