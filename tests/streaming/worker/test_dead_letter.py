"""Dead letters hold bytes, origin and reason; a repeated one is counted once."""

from recsys.contracts.event_log import Record
from recsys.contracts.types import Topic
from streaming.log.dead_letter import MAX_REASON_BYTES, read_dead_letters, send_dead_letter
from tests.memory_event_log import MemoryEventLog


def test_a_dead_letter_has_the_record_its_place_and_the_reason() -> None:
    log = MemoryEventLog()
    record = Record(Topic.EVENTS, 3, 17, "user", b"\xff not JSON", headers=(("h", b"1"),))
    send_dead_letter(log, record, "value: a finite number is required, got 'ä'")
    (letter,) = read_dead_letters(log.source())
    assert (letter.topic, letter.partition, letter.offset) == ("events", 3, 17)
    assert letter.value == b"\xff not JSON"
    assert letter.reason == "value: a finite number is required, got 'ä'"
    assert letter.kind == "value"


def test_a_record_refused_twice_is_one_dead_letter() -> None:
    log = MemoryEventLog()
    for offset in (1, 2, 1, 3, 2):
        send_dead_letter(log, Record(Topic.EVENTS, 0, offset, "u", b"x"), "late: by 3 days")
    assert sorted(letter.offset for letter in read_dead_letters(log.source())) == [1, 2, 3]


def test_a_long_reason_is_truncated() -> None:
    log = MemoryEventLog()
    send_dead_letter(log, Record(Topic.EVENTS, 0, 0, "u", b"x"), "ä" * MAX_REASON_BYTES)
    (letter,) = read_dead_letters(log.source())
    assert 0 < len(letter.reason.encode()) <= MAX_REASON_BYTES + 3


def test_no_dead_letters() -> None:
    assert list(read_dead_letters(MemoryEventLog().source())) == []


def test_reading_ends_where_the_last_offset_is_no_record() -> None:
    log = MemoryEventLog(partitions=1)
    send_dead_letter(log, Record(Topic.EVENTS, 0, 0, "u", b"x"), "late: by 3 days")
    log.mark(Topic.DEAD_LETTER, 0)
    assert len(list(read_dead_letters(log.source()))) == 1
