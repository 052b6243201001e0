"""The tools of `recsys drill serve` inject real faults; without them the test would prove nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.evaluation.fault_injection.jumping_clock import JumpingClock
from infra.evaluation.fault_injection.slow_proxy import SlowProxy
from infra.evaluation.fault_injection.small_disk import SmallDisk
from infra.local.redis import RedisServer
from recsys.contracts.errors import Unavailable
from recsys.features.definitions import FEATURES
from recsys.store.redis import RedisFeatureStore
from serving.ingest.outbox import Outbox
from serving.ingest.segment import Message
from tests.serving.flaky import FlakySink


@pytest.mark.redis
def test_the_proxy_passes_on_delays_and_ends_with_its_target(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis, SlowProxy(redis.port) as proxy:
        store = RedisFeatureStore(f"redis://127.0.0.1:{proxy.port}/0", FEATURES, timeout_s=0.5)
        store.ping()
        proxy.delay_s = 0.7
        with pytest.raises(Unavailable, match="[Tt]imeout"):
            store.ping()
        proxy.delay_s = 0.0
        store.ping()
        redis.kill()
        with pytest.raises(Unavailable):
            store.ping()
        redis.start()
        store.ping()
        store.close()


def test_a_full_disk_takes_nothing_until_it_is_freed(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", 1 << 20) as disk:
        if not disk.real:
            pytest.skip("a tmpfs needs root")
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "more").write_bytes(b"x" * 10_000)
        disk.free()
        (disk.folder / "more").write_bytes(b"x" * 10_000)
    assert list((tmp_path / "disk").iterdir()) == []


def test_the_clock_of_a_process_jumps_and_its_monotonic_one_does_not(tmp_path: Path) -> None:
    clock = JumpingClock(tmp_path / "clock")
    program = (
        "import sys, time\n"
        "for line in sys.stdin: print(time.time(), time.time_ns(), time.monotonic(), flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | clock.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ahead_s() -> tuple[float, float, float]:
        """How far the process's clocks are ahead of ours."""
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        seconds, nanoseconds, monotonic = map(float, process.stdout.readline().split())
        return seconds - time.time(), nanoseconds / 1e9 - time.time(), monotonic - time.monotonic()

    assert max(map(abs, ahead_s())) < 60
    clock.jump(3_600)
    wall, wall_ns, monotonic = ahead_s()
    assert abs(wall - 3_600) < 60
    assert abs(wall_ns - 3_600) < 60
    assert abs(monotonic) < 60
    clock.jump(-3_600)
    assert abs(ahead_s()[0] + 3_600) < 60
    process.stdin.close()
    process.wait()


def test_a_spool_on_a_full_disk_accepts_nothing_and_resumes_when_there_is_room(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", 1 << 20) as disk:
        if not disk.real:
            pytest.skip("a tmpfs needs root")
        sink = FlakySink()
        outbox = Outbox(disk.folder / "spool", sink, 1 << 30)
        disk.fill()
        with pytest.raises(Unavailable, match="No space left|disk is full"):
            outbox.put([Message("events", "u", b"x" * 5_000)])
        disk.free()
        outbox.put([Message("events", "u", b"kept")])
        assert outbox.flush(20)
        assert [record[2] for record in sink.taken] == [b"kept"]
        outbox.close()
