"""Merged users: the rules hold in every order of arrival, and as of every instant."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.merges import (
    MAX_MERGED,
    Links,
    Merges,
    UserMerge,
    linked_members,
    links_of,
    parse_user_merge,
)

IDS = [f"u{n}" for n in range(7)]
merges = st.lists(
    st.builds(UserMerge, st.sampled_from(IDS), st.sampled_from(IDS), st.integers(1, 9)).filter(
        lambda merge: merge.user_id != merge.into
    ),
    max_size=12,
)


def naive_members(log: list[UserMerge], user_id: str, now_ms: int) -> set[str]:
    """Every id that leads to the user by the first merge of each, of those before."""
    into: dict[str, tuple[int, str]] = {}
    for merge in log:
        if merge.changed_ms < now_ms:
            entry = merge.changed_ms, merge.into
            into[merge.user_id] = min(entry, into.get(merge.user_id, entry))
    found = {user_id}
    for start in IDS:
        at, path = start, set[str]()
        while at in into and at not in path and at != user_id:
            path.add(at)
            at = into[at][1]
        found |= {start} if at == user_id else set()
    return found


@settings(max_examples=50)
@given(merges)
def test_members_are_the_ids_that_lead_to_the_user(log: list[UserMerge]) -> None:
    table = Merges(log)
    for now_ms in range(1, 12):
        for user_id in IDS:
            found = table.members(user_id, now_ms)
            assert found[0] == user_id
            assert len(found) == len(set(found))
            assert set(found) == naive_members(log, user_id, now_ms)


@settings(max_examples=50)
@given(merges, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(log: list[UserMerge], rng: random.Random) -> None:
    again = log + rng.sample(log, len(log) // 2)
    rng.shuffle(again)
    links = links_of(again)
    assert links == links_of(log)
    for user_id in IDS:  # what a store answers is what the batch says of the end
        assert linked_members(user_id, lambda id_: links.get(id_, Links())) == Merges(log).members(user_id)


@settings(max_examples=50)
@given(merges)
def test_an_era_is_the_members_of_its_instants(log: list[UserMerge]) -> None:
    table = Merges(log)
    for user_id in IDS:
        for now_ms in range(1, 12):
            before = [members for since_ms, members in table.eras(user_id) if since_ms < now_ms]
            assert (before[-1] if before else [user_id]) == table.members(user_id, now_ms)


@settings(max_examples=50)
@given(merges)
def test_members_share_a_home_and_an_event_has_one_person(log: list[UserMerge]) -> None:
    table = Merges(log)
    for user_id in IDS:
        for now_ms in range(1, 12):
            assert len({table.home_of(id_) for id_ in table.members(user_id, now_ms)}) == 1
        assert table.person_of(table.person_of(user_id)) == table.person_of(user_id)
        assert user_id in table.members(table.person_of(user_id))
    assert table.home_of("stranger") == table.person_of("stranger") == "stranger"


def test_an_id_stays_with_the_first_user() -> None:
    shared = [UserMerge("device", "anna", 5), UserMerge("device", "bert", 3), UserMerge("device", "anna", 9)]
    table = Merges(shared)
    assert table.members("bert") == ["bert", "device"]
    assert table.members("anna") == ["anna"]
    assert table.members("bert", 3) == ["bert"], "a merge does not count at its own instant"
    assert table.members("device") == ["device"], "the visitor does not see the user's history"


def test_only_the_first_ids_count() -> None:
    many = [UserMerge(f"anon-{n:02}", "u", 100 - n) for n in range(40)]
    firsts = [f"anon-{n:02}" for n in range(39, 39 - MAX_MERGED, -1)]
    assert Merges(many).members("u") == ["u", *firsts]
    chain = [UserMerge(f"u{n}", f"u{n + 1}", 10) for n in range(40)]
    assert Merges(chain).members("u40") == [f"u{n}" for n in range(40, 39 - MAX_MERGED, -1)]
    assert len({Merges(chain).person_of(f"u{n}") for n in range(40)}) == 41 - MAX_MERGED


def test_a_chain_and_a_circle() -> None:
    chain = [UserMerge("a", "b", 5), UserMerge("b", "c", 2)]
    assert [Merges(chain).members("c", now) for now in (2, 3, 6)] == [["c"], ["c", "b"], ["c", "b", "a"]]
    circle = Merges([*chain, UserMerge("c", "a", 7)])
    assert {frozenset(circle.members(user)) for user in "abc"} == {frozenset("abc")}
    assert {circle.person_of(user) for user in "abc"} == {"a"}


def test_a_record_is_read_as_it_is_written() -> None:
    merge = UserMerge("anon-123", "u42", 1_750_000_000_000)
    assert parse_user_merge(merge.to_dict()) == merge
    assert merge.key != UserMerge("u42", "anon-123", 1).key


@pytest.mark.parametrize(
    ("ids", "at", "reason"),
    [
        ({"from": "a", "into": "a"}, 1, "into itself"),
        ({"from": "e\u0301", "into": "\u00e9"}, 1, "into itself"),
        ({"from": "", "into": "b"}, 1, "from"),
        ({"from": "a", "into": "b\x1f"}, 1, "into"),
        ({"from": "a"}, 1, "from and into"),
        ({"from": "a", "into": "b", "also": "c"}, 1, "from and into"),
        ("a", 1, "from and into"),
        ({"from": "a", "into": "b"}, 0, "changed_ms"),
    ],
)
def test_other_records_are_refused(ids: Any, at: int, reason: str) -> None:
    with pytest.raises(InvalidEvent, match=reason):
        parse_user_merge({"merge": ids, "changed_ms": at})
    with pytest.raises(InvalidEvent, match="merge and changed_ms"):
        parse_user_merge({"merge": ids})
