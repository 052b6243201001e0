"""The outbox: nothing accepted is lost, whatever dies; nothing is accepted that cannot be kept."""

import fcntl
import os
import struct
import subprocess
import sys
import threading
import weakref
import zlib
from functools import partial
from io import FileIO
from pathlib import Path

import msgspec
import numpy as np
import pytest

from recsys.contracts.errors import Unavailable
from recsys.contracts.impressions import Impression, ShownItem
from serving.ingest.impression_log import ImpressionWriter
from serving.ingest.outbox import Outbox
from serving.ingest.segment import Message
from serving.telemetry import Telemetry
from tests.serving.flaky import FlakySink
from tests.serving.waiting import eventually

MIB = 1 << 20


def message(i: int, size: int = 10) -> Message:
    return Message("events", f"u{i % 3}", f"{i}:".encode().ljust(size, b"x"))


def test_records_arrive_in_order_and_leave_the_folder_empty(tmp_path: Path) -> None:
    sink = FlakySink()
    outbox = Outbox(tmp_path, sink, MIB)
    sent = [message(i) for i in range(1200)]
    for start in range(0, len(sent), 7):
        outbox.put(sent[start : start + 7])
    assert outbox.flush(20)
    outbox.close()
    assert sink.taken == sent
    assert list(tmp_path.iterdir()) == []


def test_what_is_accepted_while_the_log_is_away_is_delivered_when_it_is_back(tmp_path: Path) -> None:
    sink = FlakySink(up=False)
    outbox = Outbox(tmp_path, sink, MIB)
    sent = [message(i) for i in range(50)]
    outbox.put(sent)
    eventually(lambda: outbox.failing_s > 0)
    assert outbox.backlog_bytes > 0
    assert outbox.failure == "Kafka is switched off"
    sink.up = True
    assert outbox.flush(20)
    assert sink.taken == sent
    eventually(lambda: outbox.failing_s == 0)
    assert outbox.failure == ""
    outbox.close()


def test_the_next_process_adopts_the_segments_of_a_dead_one_but_not_of_a_living_one(tmp_path: Path) -> None:
    dead = Outbox(tmp_path, FlakySink(up=False), MIB)
    sent = [message(i) for i in range(20)]
    dead.put(sent)

    neighbour_sink = FlakySink()
    neighbour = Outbox(tmp_path, neighbour_sink, MIB)
    neighbour.close()
    assert neighbour_sink.taken == []  # the owner lives: its segment is locked

    dead.close(timeout_s=0)  # its descriptors go, as when the process is killed
    heir_sink = FlakySink()
    heir = Outbox(tmp_path, heir_sink, MIB)
    assert heir.flush(20)
    heir.close()
    assert heir_sink.taken == sent
    assert list(tmp_path.iterdir()) == []


def test_a_record_written_in_part_ends_a_segment_and_the_whole_ones_before_it_arrive(tmp_path: Path) -> None:
    dead = Outbox(tmp_path, FlakySink(up=False), MIB)
    dead.put([message(0)])
    dead.put([message(1)])
    dead.close(timeout_s=0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    sink = FlakySink()
    heir = Outbox(tmp_path, sink, MIB)
    assert heir.flush(20)
    heir.close()
    assert sink.taken == [message(0)]


def test_zeros_that_a_power_cut_leaves_end_a_segment_too(tmp_path: Path) -> None:
    dead = Outbox(tmp_path, FlakySink(up=False), MIB)
    dead.put([message(0)])
    dead.close(timeout_s=0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + bytes(64))
    sink = FlakySink()
    heir = Outbox(tmp_path, sink, MIB)
    heir.put([message(1)])
    assert heir.flush(20)
    heir.close()
    assert sink.taken == [message(0), message(1)]


def test_what_nobody_expected_is_told_and_does_not_end_the_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FlakySink()
    outbox = Outbox(tmp_path, sink, MIB)
    with monkeypatch.context() as broken:
        broken.setattr(sink, "append", lambda *record: 1 / 0)
        outbox.put([message(0)])
        eventually(lambda: outbox.failing_s > 0)
    assert outbox.flush(20)
    assert outbox.failing_s == 0
    outbox.close()
    assert sink.taken == [message(0)]


def test_a_full_spool_accepts_nothing_of_a_put_and_says_so(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, FlakySink(up=False), max_bytes=1_000)
    outbox.put([message(0, 400)])
    before = outbox.backlog_bytes
    with pytest.raises(Unavailable, match="spool is full"):
        outbox.put([message(1, 400), message(2, 400)])
    assert outbox.backlog_bytes == before
    outbox.close(timeout_s=0)


def test_a_disk_that_refuses_the_write_is_told_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FlakySink()
    outbox = Outbox(tmp_path, sink, MIB)

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(Unavailable, match="No space left"):
            outbox.put([message(0)])
    outbox.put([message(1)])
    assert outbox.flush(20)
    outbox.close()
    assert sink.taken == [message(1)]


def test_a_disk_that_takes_no_new_file_is_told_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.ingest.outbox._ROTATE_BYTES", 1)
    outbox = Outbox(tmp_path, FlakySink(up=False), MIB)
    outbox.put([message(0)])

    def full(path: Path, *mode: str, **options: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(Unavailable, match="No space left"):
            outbox.put([message(1)])
    outbox.put([message(2)])
    outbox.close(timeout_s=0)
    sink = FlakySink()
    heir = Outbox(tmp_path, sink, MIB)
    heir.close()
    assert sorted(sink.taken) == [message(0), message(2)]  # segments of the same millisecond have no order


def test_processes_that_start_together_do_not_lock_each_other_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour starts at the worst moment: while a new segment has no lock yet."""
    outboxes: list[Outbox] = []
    lock = fcntl.flock

    def neighbour_first(file: FileIO, how: int) -> None:
        monkeypatch.setattr("fcntl.flock", lock)
        outboxes.append(Outbox(tmp_path, FlakySink(up=False), MIB))
        lock(file, how)

    monkeypatch.setattr("fcntl.flock", neighbour_first)
    outboxes.append(Outbox(tmp_path, FlakySink(up=False), MIB))
    for outbox in outboxes:
        assert outbox.error == ""
        outbox.put([message(0)])
        outbox.close(timeout_s=0)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_two_hundred_real_starts_two_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.serving.ingest.starting_together", str(tmp_path), "100"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["0"]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_refuses_records_but_not_the_start(tmp_path: Path) -> None:
    spool = tmp_path / "a file" / "spool"
    spool.parent.touch()
    sink = FlakySink()
    outbox = Outbox(spool, sink, MIB)
    assert "Not a directory" in outbox.error
    with pytest.raises(Unavailable, match="Not a directory"):
        outbox.put([message(0)])
    spool.parent.unlink()
    outbox.put([message(1)])
    assert outbox.error == ""
    outbox.close()
    assert sink.taken == [message(1)]


def test_foreign_files_in_the_spool_are_left_alone_or_kept(tmp_path: Path) -> None:
    secret = tmp_path / "of another program"
    secret.write_bytes(b"not ours")
    spool = tmp_path / "spool"
    (spool / "1.outbox").mkdir(parents=True)
    (spool / "2.outbox").symlink_to(secret)
    os.mkfifo(spool / "3.outbox")
    payload = msgspec.msgpack.encode({"a record": "of another program"})
    foreign = struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
    (spool / "4.outbox").write_bytes(foreign)
    (spool / "5.outbox").write_bytes(b"\xff" * 100)
    sink = FlakySink()
    outbox = Outbox(spool, sink, MIB)
    outbox.put([message(0)])
    assert outbox.flush(20)
    outbox.close()
    assert sink.taken == [message(0)]
    assert secret.read_bytes() == b"not ours"
    assert (spool / "4.outbox.damaged").read_bytes() == foreign
    assert {path.name for path in spool.iterdir()} == {
        "1.outbox",
        "2.outbox",
        "3.outbox",  # a pipe is no regular file
        "4.outbox.damaged",
        "5.outbox.damaged",
    }


def test_an_impression_that_cannot_be_made_is_counted_and_the_next_ones_are_written(tmp_path: Path) -> None:
    sink, telemetry = FlakySink(), Telemetry()
    outbox = Outbox(tmp_path, sink, MIB)
    writer = ImpressionWriter(outbox, telemetry)

    def broken() -> Impression:
        raise KeyError("an item that is gone")

    def good(narrowed_from: int) -> Impression:
        shown = [ShownItem("i", 0, 0.5)]
        return Impression(
            "r", "u", 1, "v1", "f", shown, np.zeros((1, 0), np.float32), narrowed_from=narrowed_from
        )

    writer.put(broken)
    for narrowed_from in (100, 0, 1):
        writer.put(partial(good, narrowed_from))
    writer.close()
    outbox.close()
    assert [sent.key for sent in sink.taken] == ["u"] * 3
    shown = telemetry.exposition()
    assert b"recsys_impressions_dropped_total 1.0" in shown
    assert b'recsys_impressions_total{kind="usual"} 2.0' in shown
    assert b'recsys_impressions_total{kind="narrowed"} 1.0' in shown


def test_a_waiting_impression_writer_keeps_nothing_that_it_wrote(tmp_path: Path) -> None:
    """Each impression refers to the catalogue of its bundle, and the next one may come hours later."""
    outbox = Outbox(tmp_path, FlakySink(), MIB)
    writer = ImpressionWriter(outbox, Telemetry())

    class Bundle:
        def impression(self) -> Impression:
            return Impression("r", "u", 1, "v1", "f", [], np.zeros((0, 0), np.float32))

    bundle = Bundle()
    freed = weakref.ref(bundle)
    writer.put(bundle.impression)
    del bundle
    eventually(lambda: freed() is None)
    writer.close()
    outbox.close()


def test_many_threads_put_at_once_over_several_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.ingest.outbox._ROTATE_BYTES", 4_096)
    sink = FlakySink()
    outbox = Outbox(tmp_path, sink, MIB)
    groups = [[message(1000 * t + i) for i in range(200)] for t in range(4)]

    def put_all(group: list[Message]) -> None:
        for one in group:
            outbox.put([one])

    threads = [threading.Thread(target=put_all, args=(group,)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.flush(20)
    outbox.close()
    assert sorted(sink.taken) == sorted(m for group in groups for m in group)
    for group in groups:  # each thread's order is kept
        assert [m for m in sink.taken if m in set(group)] == group
    assert list(tmp_path.iterdir()) == []


class CountingSink(FlakySink):
    def __init__(self) -> None:
        super().__init__()
        self.flushes = 0

    def flush(self, timeout_s: float = 10.0) -> None:
        super().flush(timeout_s)
        self.flushes += 1


def test_records_that_linger_are_delivered_together_and_a_flush_does_not_wait(tmp_path: Path) -> None:
    sink = CountingSink()
    outbox = Outbox(tmp_path, sink, MIB, linger_s=600.0)
    sent = [message(i) for i in range(100)]
    for one in sent:
        outbox.put([one])
    assert sink.taken == []
    assert outbox.flush(20)
    assert (sink.taken, sink.flushes) == (sent, 1)
    outbox.put([message(0)])
    outbox.close()  # nor does the end
    assert sink.taken == [*sent, message(0)]
