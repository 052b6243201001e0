"""Known answers of every recall channel, on a catalogue of twelve items."""

import numpy as np
import pytest
from msgspec.structs import replace

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.request import Query, Rows
from recsys.contracts.state import Visit
from recsys.contracts.types import ENGAGEMENT, MS_PER_DAY, MS_PER_MINUTE, EventType, Item
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility
from recsys.pipeline.hydrators import EligibilityHydrator
from recsys.pipeline.stages import Source
from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.fresh import FreshSource
from recsys.recall.item_to_item import ItemToItemSource
from recsys.recall.popular import PopularInCategoriesSource, PopularSource, popularity
from recsys.recall.repeat_consumption import EVERYTHING, RANKS, RepeatConsumptionSource, RepeatPolicy
from recsys.recall.two_tower import TwoTowerSource, UserTower
from recsys.recall.vector_index import NO_ROW
from tests.bundles import ranker_model, tiny_vectors, user_tower

N = 12
ITEMS = [Item(f"i{i}", categories=(f"c{i % 3}",) if i < 9 else (), created_ms=i * 1000) for i in range(N)]
VECTORS = tiny_vectors(N)
EXACT = AnnIndex.build(VECTORS, IndexConfig())
TOWER = UserTower(user_tower(VECTORS), VECTORS)


def rows(*values: int) -> Rows:
    return np.array(values, np.int32)


def query(*recent: int, seen: tuple[int, ...] = (), excluded: tuple[int, ...] = ()) -> Query:
    """A user whose newest item comes first in `recent`."""
    history = np.array([0, 0, *(row + 1 for row in reversed(recent))])
    return replace(
        Query("r", "u", k=5, now_ms=20_000),
        history=history,
        types=np.zeros_like(history),
        gaps=np.zeros_like(history),
        recent_rows=rows(*recent),
        seen_rows=rows(*sorted(seen)),
        excluded_rows=rows(*sorted(excluded)),
    )


def test_the_two_tower_recalls_what_is_nearest_to_the_user_and_may_be_shown() -> None:
    source: Source = TwoTowerSource(TOWER, EXACT, limit=4)
    nearest = np.argsort(-(VECTORS @ (VECTORS[3] + VECTORS[7] + VECTORS[5]))).tolist()
    assert source.recall(query(3, 7, 5)).tolist() == nearest[:4]
    hidden = query(3, 7, 5, seen=(3, 7), excluded=(nearest[2],))
    assert source.recall(hidden).tolist() == [row for row in nearest if row not in (3, 7, nearest[2])][:4]


def test_the_two_tower_has_nothing_for_a_user_without_history() -> None:
    source = TwoTowerSource(TOWER, EXACT)
    assert len(source.recall(query())) == 0
    assert len(source.recall(Query("r", "u", k=5, now_ms=0))) == 0


def test_the_two_tower_refuses_a_vector_that_is_not_finite() -> None:
    broken = VECTORS.copy()
    broken[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        TwoTowerSource(UserTower(user_tower(broken), broken), EXACT).recall(query(3))


@pytest.mark.parametrize("profile", [False, True])
def test_towers_of_before_that_hold_the_table_are_served_and_give_the_same(profile: bool) -> None:
    old, new = (UserTower(user_tower(VECTORS, profile, gathers), VECTORS) for gathers in (False, True))
    rng = np.random.default_rng(0)
    history = rng.integers(0, N + 1, (20, 7))
    history[0] = 0
    types, gaps = rng.integers(0, 8, (20, 7)), rng.integers(0, 32, (20, 7))
    np.testing.assert_allclose(
        new.vectors(history, types, gaps), old.vectors(history, types, gaps), atol=1e-6
    )


def test_a_tower_refuses_numbers_that_are_no_items_and_vectors_of_another_length() -> None:
    for number in (-1, N + 1):
        history = np.array([[0, 1, number]])
        with pytest.raises(ValueError, match="item numbers"):
            TOWER.vectors(history, history, history)
    with pytest.raises(InvalidBundle, match="the bundle has 3"):
        UserTower(user_tower(VECTORS), VECTORS[:, :3])
    with pytest.raises(InvalidBundle, match="recsys train recall"):
        UserTower(ranker_model(VECTORS, 4, 0), VECTORS)


NEIGHBOURS = np.full((6, 3), NO_ROW, np.int32)
NEIGHBOURS[0], NEIGHBOURS[1] = [2, 3, NO_ROW], [3, 4, 5]
SCORES = np.zeros((6, 3), np.float32)
SCORES[0], SCORES[1] = [1.0, 0.5, 9.0], [0.9, 0.3, 0.2]


def test_item_to_item_sums_the_scores_of_recent_items_newer_ones_more() -> None:
    source: Source = ItemToItemSource(NEIGHBOURS, SCORES)
    assert source.recall(query(0)).tolist() == [2, 3]
    # 3: 0.5 + 0.85 · 0.9 = 1.265, 2: 1.0, 4: 0.255, 5: 0.17
    assert source.recall(query(0, 1)).tolist() == [3, 2, 4, 5]
    assert source.recall(query(0, 1, seen=(3,))).tolist() == [2, 4, 5]
    assert ItemToItemSource(NEIGHBOURS, SCORES, limit=1).recall(query(0, 1)).tolist() == [3]


def test_item_to_item_starts_from_known_recent_items_only() -> None:
    source = ItemToItemSource(NEIGHBOURS, SCORES, recent=1)
    assert source.recall(query(0, 1)).tolist() == [2, 3]
    assert len(source.recall(query())) == 0
    assert len(source.recall(query(11))) == 0  # newer than the table


def test_cart_items_and_old_purchases_return() -> None:
    def visit(item_id: str, kind: EventType, at: int) -> Visit:
        return Visit(at, f"{at}", kind, item_id, ())

    seen = [
        visit("bought", EventType.ADD_TO_CART, 1),
        visit("carted", EventType.ADD_TO_CART, 2),
        visit("bought", EventType.PURCHASE, 3),
        visit("clicked", EventType.CLICK, 4),
        visit("in use", EventType.PURCHASE, 5),
        visit("carted again", EventType.PURCHASE, 6),
        visit("in use", EventType.CLICK, 100),
        visit("carted again", EventType.ADD_TO_CART, 101),
        visit("carted", EventType.CLICK, 102),
    ]
    cart, order = EventType.ADD_TO_CART, EventType.PURCHASE

    def returning(days: dict[EventType, float], now_ms: int) -> list[str]:
        split = RepeatPolicy(days).split(seen, now_ms)
        assert {visit.item_id for visit in split.hidden}.isdisjoint(split.returning)
        assert len(split.hidden) == sum(visit.item_id not in split.returning for visit in seen)
        return list(split.returning)

    days = 50 / MS_PER_DAY
    assert returning({}, 10**9) == []
    assert returning({cart: 0}, 10**9) == ["carted", "carted again"]
    assert returning({order: days}, 120) == ["bought"]
    assert returning({cart: 0, order: days}, 150) == ["carted", "carted again", "in use", "bought"]
    assert returning({EventType.CLICK: 0}, 10**9) == ["clicked"]
    assert EVERYTHING.split(seen, 50).hidden == [], "by a clock behind the user's, too"


def test_every_engagement_has_a_rank() -> None:
    assert RANKS.keys() == ENGAGEMENT


def test_repeat_consumption_recalls_seen_items_that_may_return() -> None:
    source: Source = RepeatConsumptionSource(limit=2)
    assert len(source.recall(query(3, 7))) == 0
    back = replace(query(excluded=(5,)), repeat_rows=rows(7, 5, 3, 1))
    assert source.recall(back).tolist() == [7, 3]


def table(*scores: float) -> tuple[Rows, np.ndarray]:
    return np.arange(len(scores), dtype=np.int32), np.array(scores, np.float32)


def test_popular_items_come_in_order_without_unused_ones() -> None:
    source: Source = PopularSource(popularity(*table(1, 9, 0, 5, 5), Catalogue(ITEMS)), limit=3)
    assert source.recall(query()).tolist() == [1, 3, 4]
    assert source.recall(query(seen=(1,), excluded=(3,))).tolist() == [4, 0]


def test_an_empty_popular_table_has_nothing() -> None:
    catalogue = Catalogue(ITEMS)
    empty = popularity(*table(0, 0, 0), catalogue)
    assert len(PopularSource(empty).recall(query())) == 0
    assert len(PopularInCategoriesSource(empty, catalogue).recall(query(4))) == 0


def test_the_popular_table_can_be_replaced() -> None:
    catalogue = Catalogue(ITEMS)
    source = PopularSource(popularity(*table(1, 2), catalogue))
    source.table = popularity(*table(2, 1), catalogue)
    assert source.recall(query()).tolist() == [0, 1]


def test_popular_in_categories_follows_the_users_categories() -> None:
    catalogue = Catalogue(ITEMS)  # category of item i: c(i mod 3), none from 9 on
    popular = popularity(*table(*range(12, 0, -1)), catalogue)
    source: Source = PopularInCategoriesSource(popular, catalogue, limit=3)
    # newest none, then c1, then c0: weights 0.9 and 0.81, two places each; by weight / place: 0.9, 0.81, 0.45
    assert source.recall(query(10, 4, 3)).tolist() == [1, 0, 4]
    assert source.recall(query(4)).tolist() == [1, 4, 7]
    assert len(source.recall(query())) == 0
    assert len(source.recall(query(9))) == 0  # an item without a category


def test_fresh_items_are_newest_first_without_deleted_and_undated_ones() -> None:
    catalogue = Catalogue(ITEMS)
    source: Source = FreshSource(catalogue, limit=3, refresh_ms=0)
    assert source.recall(query()).tolist() == [11, 10, 9]
    catalogue.delete(["i10"])
    (new,) = catalogue.put([Item("new", created_ms=19_000)]).tolist()
    assert source.recall(query(seen=(9,))).tolist() == [new, 11, 8]
    assert 0 not in FreshSource(catalogue, limit=99).recall(query())


def test_fresh_items_have_an_age_limit_and_are_refreshed_periodically() -> None:
    catalogue = Catalogue(ITEMS)
    source = FreshSource(catalogue, limit=5, max_age_ms=10_000, refresh_ms=100)

    def recalled(now_ms: int) -> list[int]:
        return list(source.recall(replace(query(), now_ms=now_ms)))

    assert recalled(20_000) == [11, 10]
    catalogue.put([Item("new", created_ms=19_000)])
    assert recalled(20_000) == [12, 11, 10], "the first change"
    catalogue.put([Item("newer", created_ms=19_500)])
    assert recalled(20_099) == [12, 11]
    assert recalled(20_100) == [13, 12, 11]


def test_announced_items_are_fresh_when_they_come_out_and_in_nobody_s_way_before() -> None:
    catalogue = Catalogue(ITEMS)
    source = FreshSource(catalogue, limit=3, refresh_ms=0)
    catalogue.put([Item(f"announced {n}", created_ms=30_000 + n) for n in range(99)])
    hydrator = EligibilityHydrator(Eligibility(catalogue))
    assert source.recall(hydrator.hydrate_query(query())).tolist() == [11, 10, 9]
    then = hydrator.hydrate_query(replace(query(), now_ms=30_098))
    assert source.recall(then).tolist()[:2] == [len(catalogue) - 1, len(catalogue) - 2]


@pytest.mark.parametrize("creator", ["", "one"])
def test_a_burst_of_newer_items_does_not_hide_the_others(creator: str) -> None:
    others = [
        Item(f"o{n}", categories=(f"c{n % 7}",), creator=f"c{n % 9}", created_ms=1_000 + n) for n in range(60)
    ]
    burst = [Item(f"b{n}", categories=("c0",), creator=creator, created_ms=5_000 + n) for n in range(2_000)]
    source = FreshSource(Catalogue(others + burst), limit=10)
    lists = [source.recall(replace(query(), now_ms=20_000 + minute * MS_PER_MINUTE)) for minute in range(20)]
    assert all(len(set(rows.tolist())) == 10 for rows in lists)
    assert lists[0].tolist()[:5] == [2_059, 2_058, 2_057, 2_056, 2_055], "the newest first"
    shown = set(np.concatenate(lists).tolist())
    assert shown >= set(range(60)), "each of the others had its turn"
