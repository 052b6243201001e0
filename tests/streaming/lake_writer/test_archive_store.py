"""Archivers on machines that are lost, with the lake in an object store: every event is archived exactly once."""

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("boto3")

from recsys.contracts.errors import InvalidConfig
from recsys.lake.mirror import pull, push
from recsys.lake.object_store import ObjectStore
from streaming.lake_writer.archive import Archiver
from streaming.lake_writer.commit import read_checkpoint
from streaming.lake_writer.compact import compact
from tests.killed import killed
from tests.memory_event_log import MemoryEventLog
from tests.recsys.lake.test_mirror import anew
from tests.streaming.lake_writer.test_archive import drain, event, event_ids, send

STEPS = [(ObjectStore, name) for name in ("upload", "replace", "delete")]


@pytest.mark.slow
def test_each_event_once_whatever_machine_archives_it(bucket: str, tmp_path: Path) -> None:
    log, store = MemoryEventLog(partitions=2), ObjectStore(f"s3://{bucket}/lake")
    sent, machine, died = 0, 0, True

    def archive(events: int) -> None:
        nonlocal sent
        send(log, *(event(n) for n in range(sent, sent + events)))
        sent += events
        drain(Archiver(log.source(), lake))

    while died:  # each machine has an empty disk, and is lost during its second push
        lake = tmp_path / f"machine-{machine}"
        pull(lake, store)
        archive(10)
        push(lake, store)
        archive(10)
        compact(lake)
        died = killed(machine, STEPS, partial(anew, push, lake, store))
        machine += 1
    assert machine > 5, "a push has more steps than that"
    last = tmp_path / "last"
    pull(last, store)
    drain(Archiver(log.source(), last))
    assert Counter(event_ids(last)) == {event(n).event_id: 1 for n in range(sent)}
    assert sum(place.offset for place in read_checkpoint(last).values()) == sent


def test_a_machine_that_comes_back_cannot_push_what_another_has_archived(bucket: str, tmp_path: Path) -> None:
    log, store = MemoryEventLog(partitions=2), ObjectStore(f"s3://{bucket}/lake")
    first, second = tmp_path / "first", tmp_path / "second"
    send(log, *(event(n) for n in range(10)))
    drain(Archiver(log.source(), first))
    push(first, store)
    pull(second, store)
    send(log, *(event(n) for n in range(10, 20)))
    for lake in (first, second):
        drain(Archiver(log.source(), lake))
    push(second, store)
    with pytest.raises(InvalidConfig, match="nothing is pushed"):
        push(first, store)
    pull(first, store, discard=True)
    send(log, *(event(n) for n in range(20, 30)))
    drain(Archiver(log.source(), first))
    push(first, store)
    pull(second, store)
    assert Counter(event_ids(second)) == {event(n).event_id: 1 for n in range(30)}
