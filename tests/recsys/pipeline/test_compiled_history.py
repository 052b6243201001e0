"""The compiled encoder of histories equals the Python one."""

import random
from collections.abc import Collection

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from recsys.contracts.request import Query
from recsys.contracts.state import EntityState, Visit
from recsys.contracts.types import ENGAGEMENT, MS_PER_DAY, EventType, Item
from recsys.items.catalogue import Catalogue
from recsys.pipeline.hydrators import DISLIKED, ENGAGED, SEEN, HistoryHydrator
from recsys.recall.repeat_consumption import RepeatPolicy
from tests.recsys.native.built import needs_native

NOW_MS = 20_000 * MS_PER_DAY
CATALOGUE = Catalogue([Item(f"i{i}") for i in range(20)])
CATALOGUE.put([Item(f"i{i}") for i in range(20, 25)])  # newer than the bundle
FIELDS = (
    "history",
    "types",
    "gaps",
    "recent_rows",
    "seen_rows",
    "repeat_rows",
    "excluded_rows",
)


def visits(rng: random.Random, most: int, types: Collection[EventType]) -> list[Visit]:
    """Of known, later and unknown items; some without a time, some after now."""
    ages = [0, 1, 999, 1000, 5_000, MS_PER_DAY, 30_000 * MS_PER_DAY, NOW_MS, -1, -10_000]
    made = [
        Visit(NOW_MS - rng.choice(ages), f"e{i}", rng.choice(sorted(types)), f"i{rng.randrange(30)}", ())
        for i in range(rng.randint(0, most))
    ]
    return sorted(made)


@needs_native
@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_same_inputs_and_rows(rng: random.Random) -> None:
    of_names = {ENGAGED: ENGAGEMENT, SEEN: ENGAGEMENT, DISLIKED: {EventType.DISLIKE}}
    names = rng.sample(list(of_names), rng.randint(0, 3))
    histories = {name: visits(rng, 60, of_names[name]) for name in names}
    returning = rng.sample(sorted(ENGAGEMENT), rng.choice([0, 0, 1, 4]))
    policy = RepeatPolicy({kind: rng.choice([0, 1e-5, 1, 90]) for kind in returning})
    query = replace(
        Query("r", "u", k=5, now_ms=NOW_MS, allow_seen=rng.random() < 0.2),
        user=EntityState(histories=histories),
        excluded_items=frozenset(f"i{rng.randrange(30)}" for _ in range(rng.choice([0, 3]))),
    )
    length = rng.choice([1, 8, 50])
    reference = HistoryHydrator(CATALOGUE, length, policy).hydrate_query(query)
    compiled = HistoryHydrator(CATALOGUE, length, policy, native=True).hydrate_query(query)
    for name in FIELDS:
        one, other = getattr(compiled, name), getattr(reference, name)
        assert (one.dtype, one.tolist()) == (other.dtype, other.tolist()), name
