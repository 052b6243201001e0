"""What a record may hold: no value, bytes of any kind, the place of a skipped batch."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidEvent
from recsys.contracts.event_log import Record, partition_of
from recsys.contracts.merges import UserMerge
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import Topic
from streaming.acceptance import Misrouted, accept, accept_item_change, accept_user_change
from streaming.log.dead_letter import read_dead_letters, send_dead_letter
from tests.memory_event_log import MemoryEventLog

PARTITIONS = 4
RULES = TimeRules()


def tombstone(topic: Topic, key: str) -> Record:
    return Record(topic, partition_of(key, PARTITIONS), 7, key, b"", 1_000, tombstone=True)


def test_a_tombstone_deletes_its_item_or_user() -> None:
    assert accept_item_change(tombstone(Topic.ITEMS, "i")) == ItemChange("i", None, 1_000)
    assert accept_user_change(tombstone(Topic.USERS, "u")) == UserChange("u", None, 1_000)
    with pytest.raises(InvalidEvent, match="key of a record without a value"):
        accept_item_change(tombstone(Topic.ITEMS, ""))


def test_a_record_without_a_value_is_no_event() -> None:
    for topic in (Topic.EVENTS, Topic.IMPRESSIONS):
        with pytest.raises(InvalidEvent, match="^null: "):
            accept(tombstone(topic, "u"), 0, RULES)


MERGE = UserMerge("anon-123", "u42", 999)


def test_a_merge_is_a_record_of_the_topic_users_under_both_ids() -> None:
    def record(key: str, changed_ms: int) -> Record:
        raw = json.dumps(replace(MERGE, changed_ms=changed_ms).to_dict()).encode()
        return Record(Topic.USERS, 1, 7, key, raw, 1_000)

    assert accept_user_change(record(MERGE.key, 999)) == MERGE
    assert accept_user_change(record(MERGE.key, 5_000)) == replace(MERGE, changed_ms=1_000), "no future"
    for key in ("anon-123", "u42", UserMerge("u42", "anon-123", 1).key):
        with pytest.raises(Misrouted, match="both ids"):
            accept_user_change(record(key, 999))
    assert accept_user_change(tombstone(Topic.USERS, MERGE.key)) is None


json_bytes = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
).map(lambda value: json.dumps(value).encode())


@settings(max_examples=60, deadline=None)
@given(
    topic=st.sampled_from(Topic),
    value=st.binary(max_size=60) | json_bytes,
    key=st.text(max_size=5),
    headers=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=10)), max_size=2),
    is_null=st.booleans(),
)
def test_any_bytes_are_refused_and_become_a_dead_letter(
    topic: Topic, value: bytes, key: str, headers: list[tuple[str, bytes]], is_null: bool
) -> None:
    record = Record(topic, 1, 5, key, b"" if is_null else value, 1_000, tuple(headers), is_null)
    log = MemoryEventLog()
    for read in (
        lambda: accept_item_change(record),
        lambda: accept_user_change(record),
        lambda: accept(record, 0, RULES),
    ):
        try:
            read()
        except InvalidEvent as error:
            send_dead_letter(log, record, str(error))
            assert next(read_dead_letters(log.source())).value == record.value


def test_a_foreign_record_larger_than_ours_is_cut_in_the_dead_letters() -> None:
    log = MemoryEventLog()
    send_dead_letter(log, Record("events", 0, 0, "u", b"x" * 5_000_000), "json: \ud800 is no text")
    (letter,) = read_dead_letters(log.source())
    assert len(letter.value) < 1_000_000
    assert letter.reason == "json: ? is no text (cut from 5000000 bytes)"
