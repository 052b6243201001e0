"""The archiver as a process on a real broker, killed repeatedly while events arrive."""

import asyncio
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.evaluation.load.traffic import drive, kafka_target, traffic_events
from infra.local.memory_kafka import MemoryKafka
from recsys.contracts.events import Event
from recsys.contracts.types import Item
from recsys.kafka_connection import KafkaConnection
from recsys.lake.lake import EVENTS
from streaming.lake_writer.commit import read_checkpoint
from streaming.log import KafkaSink

KILLS = 3
PATIENCE_S = 60.0


def archived(lake: Path) -> Counter[str]:
    """How often each event id is in the files: nothing here hides a repeated one."""
    paths = lake.glob(f"{EVENTS}/*/[!._]*.parquet")
    tables = (pq.read_table(path, columns=["event_id"], partitioning=None) for path in paths)
    return Counter(itertools.chain.from_iterable(table["event_id"].to_pylist() for table in tables))


def progress(lake: Path) -> int:
    """How many records of the log the lake's checkpoint covers."""
    return sum(place.offset for place in read_checkpoint(lake).values())


def wait_for_progress(lake: Path, records: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (found := progress(lake)) < records:
        assert time.monotonic() < deadline, f"{found} records of {records}"
        time.sleep(0.02)


@contextmanager
def traffic(kafka: KafkaConnection, rate: float) -> Iterator[list[Event]]:
    """Events arrive while the context is open; afterwards the list holds all that were sent."""
    sent: list[Event] = []
    sink, stop = KafkaSink(kafka), threading.Event()
    events = traffic_events([Item(f"i{n}") for n in range(20)], users=50)
    to_kafka = kafka_target(sink)

    async def target(batch: Sequence[Event]) -> None:
        await to_kafka(batch)
        sent.extend(batch)

    thread = threading.Thread(target=lambda: asyncio.run(drive(target, events, rate, 1_000_000, stop)))
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()
        sink.close()


@pytest.mark.slow
@pytest.mark.kafka
def test_a_repeatedly_killed_archiver_neither_loses_nor_duplicates_records(
    tmp_path: Path, kafka_broker: MemoryKafka
) -> None:
    environ = os.environ | {
        "RECSYS_HOME": str(tmp_path),
        "RECSYS_KAFKA_BOOTSTRAP": kafka_broker.bootstrap,
        "RECSYS_REDIS_URL": "redis://unused",
        "RECSYS_ARCHIVE_MAX_ROWS": "10",  # hardly a moment without a commit
    }
    command = [sys.executable, "-m", "infra.cli.main", "stream", "archive"]
    lake, rng = tmp_path / "lake", random.Random(7)
    with traffic(kafka_broker.connection, rate=500) as sent:
        for _ in range(KILLS):
            with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as archiver:
                wait_for_progress(lake, progress(lake) + 1)  # a kill counts only while offsets advance
                time.sleep(rng.uniform(0.0, 0.3))
                archiver.kill()
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as archiver:
        wait_for_progress(lake, len(sent) - 10)
        archiver.terminate()
        assert archiver.wait(PATIENCE_S) == 0
    assert archived(lake) == {event.event_id: 1 for event in sent}
