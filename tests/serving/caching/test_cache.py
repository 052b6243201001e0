"""Caches: bounded, timed, made once; and a cached list is never one that a click has overtaken."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.request import Answer, Query, StageOutcome, Status, no_candidates
from recsys.contracts.state import EntityState, Visit
from recsys.contracts.types import EventType, Topic
from recsys.features.definitions import ENGAGED_VISITS
from recsys.recall.two_tower import UserTower
from serving.assembly import _caches
from serving.caching.cache import Cache
from serving.caching.memory_guard import MemoryGuard, memory_left
from serving.engine.result_cache import ResultCache, Served
from serving.engine.user_vectors import CachedUserTower
from tests.bundles import tiny_linear, tiny_vectors, user_tower, write_tiny_bundle
from tests.serving.conftest import Api, click
from tests.serving.waiting import eventually


def test_what_is_asked_for_once_leaves_and_what_is_popular_stays() -> None:
    cache: Cache[str, str] = Cache(max_bytes=10, weigh=len)
    cache.put("a", "xxxx")
    cache.put("b", "yyyy")
    assert cache.get("a") == "xxxx"
    cache.put("c", "zz")
    assert cache.bytes == 10
    cache.put("d", "w")  # the hand takes the mark of a, and then b
    assert cache.get("b") is None
    assert (cache.get("a"), cache.get("c"), cache.get("d")) == ("xxxx", "zz", "w")
    assert (cache.bytes, cache.evictions) == (7, 1)
    cache.put("a", "x" * 11)  # heavier than the cache
    assert cache.get("a") is None
    assert (cache.hits, cache.misses) == (4, 2)


def _paper(keys: list[int], entries: int) -> list[bool]:
    """Whether each access hits: SIEVE as the paper has it, on a list whose head is first."""
    queue: list[int] = []
    visited: dict[int, bool] = {}
    hand: int | None = None  # the key at the hand
    hits = []
    for key in keys:
        hits.append(key in visited)
        if key in visited:
            visited[key] = True
            continue
        if len(queue) == entries:
            at = queue.index(hand) if hand is not None else len(queue) - 1
            while visited[queue[at]]:
                visited[queue[at]] = False
                at = at - 1 if at else len(queue) - 1
            hand = queue[at - 1] if at else None
            del visited[queue.pop(at)]
        queue.insert(0, key)
        visited[key] = False
    return hits


@given(st.lists(st.integers(0, 12), max_size=120), st.integers(1, 8))
def test_hits_are_those_of_the_paper(keys: list[int], entries: int) -> None:
    cache: Cache[int, int] = Cache(entries, lambda value: 1)
    hits = []
    for key in keys:
        found = cache.get(key)
        hits.append(found is not None)
        if found is None:
            cache.put(key, key)
    assert hits == _paper(keys, entries)


_KEYS, _VERSIONS = st.integers(0, 4), st.integers(0, 1)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), _KEYS, _VERSIONS, st.integers(0, 12)),
            st.tuples(st.just("renew"), _KEYS, _VERSIONS, st.integers(0, 12)),
            st.tuples(st.just("get"), _KEYS, _VERSIONS, st.just(0)),
            st.tuples(st.just("wait"), st.just(0), st.just(0), st.integers(1, 3)),
            st.tuples(st.just("resize"), st.just(0), st.just(0), st.integers(0, 20)),
        ),
        max_size=80,
    )
)
def test_never_above_its_bytes_and_never_another_value_than_the_latest(
    steps: list[tuple[str, int, int, int]],
) -> None:
    now = [0.0]
    cache: Cache[int, tuple[int, int]] = Cache(20, lambda value: value[1], clock=lambda: now[0])
    latest: dict[int, tuple[tuple[int, int], int, float]] = {}  # value, version, time
    for n, (step, key, version, amount) in enumerate(steps):
        if step == "put" or (step == "renew" and key in latest and latest[key][1] == version):
            latest[key] = (n, amount), version, now[0]
        if step == "put":
            cache.put(key, (n, amount), ttl_s=2, version=version)
        elif step == "renew":
            cache.renew(key, (n, amount), ttl_s=2, version=version)
        elif step == "wait":
            now[0] += amount
        elif step == "resize":
            cache.resize(amount)
        elif (found := cache.get(key, version)) is not None:
            assert (found, version) == latest[key][:2]
            assert now[0] - latest[key][2] <= 2
        check_whole(cache)


def check_whole(cache: Cache[Any, Any]) -> None:
    """The ring has the entries, and the entries the bytes."""
    ring, entry = [], cache._end.newer
    while entry is not cache._end:
        ring.append(entry)
        assert entry.newer.older is entry
        entry = entry.newer
    assert {entry.key: entry for entry in ring} == cache._entries
    assert len(ring) == len(cache._entries)
    assert {cache._hand, cache._broom} <= {cache._end, *ring}
    assert sum(entry.weight for entry in ring) == cache.bytes <= cache.max_bytes


def test_what_is_over_leaves_with_those_that_come() -> None:
    now = [0.0]
    cache: Cache[int, str] = Cache(1_000, len, clock=lambda: now[0])
    cache.put(-1, "stays")
    for key in range(100):
        cache.put(key, "x", ttl_s=1)
    now[0] = 2.0
    for key in range(100, 300):
        cache.put(key, "x", ttl_s=1)
    assert sorted(cache._entries) == [-1, *range(100, 300)]
    assert cache.evictions == 0
    check_whole(cache)


def test_threads_leave_it_whole() -> None:
    cache: Cache[int, str] = Cache(300, len)

    def use(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for key, step, size in rng.integers(0, (40, 20, 30), (3_000, 3)).tolist():
            if step == 0:
                cache.resize(100 + 10 * size)
            else:
                value = chr(65 + key) * size
                found = cache.get_or_make(key, partial(lambda made: (made, 60.0), value))
                assert set(found) <= {chr(65 + key)}

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(4)))
    check_whole(cache)
    assert cache.hits > 0 and cache.evictions > 0


def test_a_new_version_takes_the_place_of_the_old_one() -> None:
    cache: Cache[str, str] = Cache(2, len)
    cache.put("a", "1", version=1)
    assert cache.get("a", 1) == "1"
    cache.put("a", "2", version=2)
    assert (cache.get("a", 1), cache.get("a", 2), cache.bytes) == (None, "2", 1)
    cache.renew("a", "3", version=1)  # was being made when the user acted
    assert (cache.get("a", 2), cache.prefetched) == ("2", 0)
    assert cache.get_or_make("a", lambda: ("4", 1.0), version=3) == "4"
    cache.put("b", "5")
    cache.put("c", "6")  # a keeps the mark of its earlier versions
    assert (cache.get("a", 3), cache.get("b"), cache.evictions) == ("4", None, 1)


def test_entries_end_with_their_time_and_leave_first() -> None:
    now = [0.0]
    cache: Cache[str, str] = Cache(2, len, clock=lambda: now[0])
    cache.put("lasting", "x")
    cache.put("short", "y", ttl_s=1.0)
    now[0] = 1.0
    assert (cache.get("lasting"), cache.get("short")) == ("x", "y")
    now[0] = 1.01
    assert cache.get("short") is None
    cache.put("new", "z")  # both are marked, but one is over
    assert (cache.get("lasting"), cache.get("short"), cache.get("new")) == ("x", None, "z")


def test_a_hot_entry_is_renewed_once_before_its_time_is_over() -> None:
    now, due = [0.0], []
    cache: Cache[str, str] = Cache(100, len, clock=lambda: now[0])

    def ask() -> str:
        return cache.get_or_make("a", lambda: ("x", 1.0), lambda: due.append(now[0]))

    assert [ask() for _ in range(3)] == ["x"] * 3
    assert due == []  # hot, but fresh
    now[0] = 0.8
    assert [ask() for _ in range(3)] == ["x"] * 3
    assert due == [0.8]
    cache.renew("a", "y", 1.0)
    now[0] = 1.5  # the first would be gone
    assert (ask(), cache.prefetched, due) == ("y", 1, [0.8])
    cache.put("cold", "z", 1.0)
    now[0] = 2.3
    assert cache.get_or_make("cold", lambda: ("z", 1.0), lambda: due.append(0.0)) == "z"
    assert due == [0.8]  # one hit does not make it hot


def test_caches_shrink_while_memory_is_short_and_grow_again() -> None:
    cache: Cache[int, str] = Cache(100, len)
    for key in range(10):
        cache.put(key, "x" * 10)
    left = [0.05]
    guard = MemoryGuard(lambda: [cache], lambda: left[0])
    guard.poll()
    assert (cache.max_bytes, cache.bytes, cache.evictions) == (50, 50, 5)
    assert cache.get(9) is not None  # the latest stay
    left[0] = 0.10  # neither short nor enough
    guard.poll()
    assert cache.max_bytes == 50
    left[0] = 0.5
    guard.poll()
    guard.poll()
    assert cache.max_bytes == 100
    assert 0 < memory_left() <= 1


def test_callers_that_miss_at_once_share_one_flight() -> None:
    cache: Cache[str, str] = Cache(100, len)
    made: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def make() -> tuple[str, float]:
        made.append(1)
        begun.set()
        go.wait(20)
        return "x", 60.0

    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(cache.get_or_make("a", make))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    eventually(lambda: cache.misses == 5)
    go.set()
    for thread in threads:
        thread.join()
    assert (got, made) == (["x"] * 5, [1])


def test_a_failed_flight_fails_for_all_and_is_tried_again() -> None:
    cache: Cache[str, str] = Cache(100, len)

    def fail() -> tuple[str, float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.get_or_make("a", fail)
    assert cache.get_or_make("a", lambda: ("x", 0.0)) == "x"
    assert cache.get("a") is None  # made, but not to be kept


def test_cached_user_vectors_are_those_of_the_tower(tmp_path: Path) -> None:
    items = tiny_vectors(30)
    model = user_tower(items)
    linear = tiny_linear(30)
    plain = UserTower(model, items, linear=linear)
    cached = CachedUserTower(model, items, 10_000, linear=linear)
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, 31, (1, 5)) for _ in range(4)]
    for history in histories * 2:
        other = np.ones_like(history)
        np.testing.assert_array_equal(
            cached.vectors(history, other, other), plain.vectors(history, other, other)
        )
    assert (cached.cache.hits, cached.cache.misses) == (4, 4)


def test_a_repeated_request_is_cached_and_logged_as_shown_again(make_api: Callable[..., Api]) -> None:
    api = make_api(result_cache_ms=60_000)
    first, second = api.recommend(k=5).json(), api.recommend(k=5).json()
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["items"] == second["items"]
    assert first["request_id"] != second["request_id"]
    logged = api.logged(Topic.IMPRESSIONS, 2)
    assert [i["request_id"] for i in logged] == [first["request_id"], second["request_id"]]
    assert logged[0]["features"] == logged[1]["features"]


@pytest.mark.parametrize("change", [{"k": 6}, {"context": {"tab": "1"}}, {"exclude": ["item-000"]}])
def test_another_question_is_not_answered_from_the_cache(
    make_api: Callable[..., Api], change: dict[str, Any]
) -> None:
    api = make_api(result_cache_ms=60_000)
    api.recommend(k=5)
    assert api.recommend(**{"k": 5, **change}).json()["cached"] is False
    assert api.recommend("other", k=5).json()["cached"] is False
    assert api.recommend(k=5).json()["cached"] is True


def test_attributes_that_are_put_are_seen_by_the_next_request(make_api: Callable[..., Api]) -> None:
    api = make_api(result_cache_ms=60_000)
    api.recommend(k=5)
    assert api.recommend(k=5).json()["cached"] is True
    assert api.client.put("/v1/users/u1", json={"attributes": {"age": "31"}}).status_code == 202
    assert api.recommend(k=5).json()["cached"] is False


@pytest.mark.parametrize(
    ("acts_s_ago", "seconds"),
    [([], 5.0), ([9_000], 5.0), ([900, 600, 300], 3.0), ([7 - n for n in range(8)], 0.5), ([-60], 0.5)],
)
def test_lists_of_users_who_act_often_live_shorter(acts_s_ago: list[int], seconds: float) -> None:
    now_s = 1_000_000
    visits = [
        Visit((now_s - ago) * 1_000, str(n), EventType.CLICK, "item", ()) for n, ago in enumerate(acts_s_ago)
    ]
    user = EntityState(histories={ENGAGED_VISITS.name: visits})
    query = Query("r", "u", 1, now_s * 1_000, user=user)
    served = Served(Answer(query, no_candidates(), np.empty(0, np.float32), ()), msgspec.Raw(b"[]"))
    kept, ttl_s = ResultCache(str, 1_000, 0.5, 5.0)._timed(served)
    assert (ttl_s, kept.answer.query.user.histories) == (seconds, {})


def test_who_waits_for_a_degraded_list_learns_that_it_is_one() -> None:
    late = StageOutcome("two_tower", "source", Status.TIMED_OUT, 0, 0, 0.0)
    answer = Answer(Query("r", "u", 1, 1), no_candidates(), np.empty(0, np.float32), (late,))
    kept, ttl_s = ResultCache(str, 1_000, 0.5, 5.0)._timed(Served(answer, msgspec.Raw(b"[]")))
    assert (kept.answer.degraded, ttl_s) == (("two_tower",), 0.0)


def test_a_click_never_gets_a_cached_list(make_api: Callable[..., Api]) -> None:
    api = make_api(result_cache_ms=60_000)
    before = api.list_of(k=10)
    assert api.recommend(k=10).json()["cached"] is True
    api.apply([click(before[0])])
    after = api.recommend(k=10).json()
    assert after["cached"] is False
    assert before[0] not in [item["item_id"] for item in after["items"]]


def test_a_change_of_the_catalogue_is_not_hidden_by_the_cache(make_api: Callable[..., Api]) -> None:
    api = make_api(result_cache_ms=60_000)
    shown = api.list_of(k=5)
    api.client.delete(f"/v1/items/{shown[0]}")
    eventually(lambda: shown[0] not in api.list_of(k=5))


def test_degraded_answers_are_not_kept(make_api: Callable[..., Api]) -> None:
    api = make_api(result_cache_ms=60_000)
    api.store.up = False
    assert api.recommend().json()["degraded"] == ["user_features"]
    api.store.up = True
    eventually(lambda: api.recommend().json()["degraded"] == [])


def test_the_list_of_a_user_who_keeps_asking_is_made_anew_beside_the_requests(
    make_api: Callable[..., Api],
) -> None:
    api = make_api(result_cache_ms=400)
    first = api.recommend(k=5).json()["request_id"]

    def prefetched() -> bool:
        api.recommend(k=5)
        return api.services.recommender.results.cache.prefetched > 0

    eventually(prefetched)
    asked = api.services.recommender.results.cache
    logged = {impression["request_id"] for impression in api.logged(Topic.IMPRESSIONS, 1)}
    assert first in logged
    assert len(logged) <= asked.hits + asked.misses  # what was made ahead was shown to nobody


def test_to_look_at_the_caches_of_bundles_is_not_to_use_the_bundles(make_api: Callable[..., Api]) -> None:
    api = make_api()
    host = api.services.host
    write_tiny_bundle(api.services.settings.bundles, "v2", current=False)
    host.load("v2")
    assert host.runtime("v1") is not None  # v2 is the least recently used now, and goes first
    used = dict(host._used)
    assert len(_caches(api.services.recommender.results, host)) == 3
    assert host._used == used


def test_what_a_client_excludes_weighs_in_the_cache_of_lists(make_api: Callable[..., Api]) -> None:
    api = make_api(result_cache_ms=60_000)
    cache = api.services.recommender.results.cache
    api.recommend(k=5)
    short = cache.bytes
    excluded = [f"{n}".rjust(100, "x") for n in range(500)]
    api.client.post("/v1/recommendations", json={"user_id": "u1", "k": 5, "exclude": excluded})
    assert cache.bytes - 2 * short >= sum(map(len, excluded))
