"""The real server, a real Redis and broker: swaps under load, the loop of a click, and a stop that loses nothing."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from infra.evaluation.benchmarks.process_cost import tree_memory
from infra.evaluation.benchmarks.serve import Api, api
from infra.evaluation.stream_rig import PARTITIONS, StreamRig
from infra.local.process import pid_alive
from recsys.bundle import publish
from recsys.client import Client
from recsys.contracts.impression_record import read_impression
from recsys.contracts.types import Topic
from tests.bundles import write_tiny_bundle
from tests.serving.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.redis, pytest.mark.kafka]

SWAPS = 20


@pytest.fixture(scope="module")
def rig() -> Iterator[StreamRig]:
    with StreamRig() as rig:
        write_tiny_bundle(rig.home / "bundles", "a", seed=1)
        write_tiny_bundle(rig.home / "bundles", "b", seed=2, current=False)
        rig.start_worker()
        yield rig


PATIENT = {"RECSYS_DEADLINE_MS": "20000", "RECSYS_STORE_TIMEOUT_MS": "20000"}


@pytest.fixture(scope="module")
def served(rig: StreamRig) -> Iterator[Api]:
    with api(rig, workers=1, RECSYS_BUNDLE_POLL_S="0.1", **PATIENT) as served:
        yield served


def test_a_click_changes_the_list_through_kafka_and_redis(served: Api) -> None:
    with Client(served.url, timeout_s=30) as client:
        before = [item.item_id for item in client.recommend("clicker", k=10).items]
        client.send([client.event("click", "clicker", before[0])])
        eventually(lambda: before[0] not in [i.item_id for i in client.recommend("clicker", k=10).items], 60)
        assert client.user("clicker")["known"] is True


def test_no_request_fails_in_twenty_swaps_under_load(rig: StreamRig, served: Api) -> None:
    stop = threading.Event()
    statuses: list[int] = []
    bundles: set[str] = set()

    def ask() -> None:
        with httpx.Client(base_url=served.url, timeout=60) as http:
            while not stop.is_set():
                response = http.post("/v1/recommendations", json={"user_id": "u", "k": 5})
                statuses.append(response.status_code)
                bundles.add(response.json()["bundle"])

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    with Client(served.url, timeout_s=60) as client:
        for swap in range(SWAPS):
            version = "ba"[swap % 2]
            if swap % 4 == 3:  # now and then as training does it
                publish(rig.home / "bundles", version)
                eventually(lambda v=version: client.ready()["bundle"] == v, 60)  # type: ignore[misc]
            else:
                client.activate(version)
            answered = len(statuses)
            eventually(lambda n=answered: len(statuses) >= n + 5, 60)  # type: ignore[misc]
    stop.set()
    for asker in askers:
        asker.join()
    assert set(statuses) == {200}
    assert bundles == {"a", "b"}
    assert len(statuses) >= 5 * SWAPS


def test_accepted_events_survive_kill_9_of_the_api_while_kafka_is_away(rig: StreamRig) -> None:
    """The broker is frozen, events are accepted, the API is killed; the next API delivers what the first promised."""
    settings = {"RECSYS_SPOOL": str(rig.home / "spool-of-the-killed")}
    before = rig.source.end_offset(Topic.EVENTS, 0)
    assert before >= 0
    with api(rig, workers=1, **settings) as doomed:
        os.kill(rig.kafka.pid, signal.SIGSTOP)
        try:
            with Client(doomed.url, timeout_s=30) as client:
                sent = [client.event("click", "survivor", f"item-{i:03d}") for i in range(30)]
                assert client.send(sent).accepted == 30
            doomed.process.kill()
        finally:
            os.kill(rig.kafka.pid, signal.SIGCONT)
    with api(rig, workers=1, **settings):
        expected = {event["item_id"] for event in sent}
        eventually(
            lambda: {v.item_id for v in rig.store.user("survivor").histories.get("seen", [])} == expected, 90
        )


def test_sigterm_answers_what_it_has_taken_and_delivers_every_impression(rig: StreamRig) -> None:
    home = rig.home / "spool-of-the-stopped"
    with api(rig, workers=2, RECSYS_SPOOL=str(home), **PATIENT) as served:
        with Client(served.url, timeout_s=30) as client:
            ids = {client.recommend(f"leaver-{i}", k=2).request_id for i in range(20)}
        served.process.stop()
    assert [path for path in home.rglob("*") if path.is_file()] == []
    found: set[str] = set()
    for partition in range(PARTITIONS):
        rig.source.seek(Topic.IMPRESSIONS, partition, 0)
    deadline = time.monotonic() + 60
    while not ids <= found and time.monotonic() < deadline:
        found |= {read_impression(record.value).request_id for record in rig.source.poll(0.5, 500)}
    assert ids <= found


def test_several_processes_share_memory_and_survive_the_death_of_one(rig: StreamRig) -> None:
    spool = str(rig.home / "spool-of-several")
    with api(rig, workers=2, RECSYS_SPOOL=spool, **PATIENT) as several:

        def children() -> set[int]:
            return {child.pid for child in psutil.Process(several.process.pid).children()}

        eventually(lambda: len(children()) == 2, 60)
        first = children()
        memory = tree_memory(several.process.pid)
        assert sum(process.pss for process in memory) < 0.75 * sum(process.rss for process in memory)
        with Client(several.url, timeout_s=60) as client:
            os.kill(min(first), signal.SIGKILL)
            for n in range(20):  # the client retries what the dead process had taken
                assert client.recommend(f"survivor-{n}", k=2).items
            eventually(lambda: len(children()) == 2 and children() != first, 60)
        last = children()
        os.kill(several.process.pid, signal.SIGKILL)  # the supervisor alone
        eventually(lambda: not any(map(pid_alive, last)), 60)


def test_a_taken_port_is_one_sentence(rig: StreamRig, served: Api, tmp_path: Path) -> None:
    from infra.local.children import recsys_command
    from infra.local.process import ChildProcess

    environ = os.environ | {"RECSYS_REDIS_URL": rig.redis.url, "RECSYS_KAFKA_BOOTSTRAP": rig.kafka.bootstrap}
    process = ChildProcess(
        recsys_command("serve", "--port", str(served.port)), tmp_path / "log", environ=environ
    )
    eventually(lambda: not process.alive, 60)
    assert "choose another --port" in process.log_tail().replace("\n", " ")
