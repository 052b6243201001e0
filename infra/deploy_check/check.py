"""Run every container of the deployment files on this machine, in the way that its manifest says.

For each of the scenarios (the compose file, the overlays `local` and `production`):

1. Start Redis, Kafka and PostgreSQL as the manifests want them.
2. Run what ends by itself (`topics create`, `db upgrade`), then start the others: the image's entry point and
   environment, the manifest's arguments, account, mounts and read-only root. Wait until every probe succeeds.
3. Send an event and a change of an item to the API, and see them arrive: this takes the rights in Kafka, Redis and
   PostgreSQL that each process has.
4. Run the jobs of the night, next to the autopilot: features (compose's on its Spark), then training.
5. Stop each with SIGTERM, within its time.

Everything runs in a network of its own, where all names lead to loopback. What is not checked: the images' layers,
memory limits, network policies, the operators' resources, and containers of other images than the project's for CPUs
(the report names them).
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import httpx

from infra.deploy_check import compose
from infra.deploy_check.containers import Container
from infra.deploy_check.image import VENV, Builder, Image
from infra.deploy_check.sandbox import Fault, Sandbox
from infra.deploy_check.scenarios import SCENARIOS, Scenario
from recsys.bundle import current_version
from recsys.contracts.errors import RecsysError, Unavailable
from recsys.contracts.types import Topic
from streaming.log import KafkaSink, KafkaSource
from streaming.log.dead_letter import read_dead_letters

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "infra" / "deploy"
CACHE = Path("/var/cache/recsys-deploy-check")  # kept for the next check
_NEWNS, _NEWNET = 0x00020000, 0x40000000  # of unshare(2)
_ENDS_S, _NIGHT_S, _ARRIVES_S = 120.0, 900.0, 60.0
_TRAINING, _USER = "recsys:training", "10001:10001"
_CHECKED_IMAGES = ("recsys:serving", _TRAINING)
_LATER = ("api", "relay")  # the others are there when an event comes; the relay has the worker's port
_NOT_CHECKED = ("traffic",)  # needs an address that nginx serves

Report = Callable[[str], None]


def images(deploy: Path = DEPLOY) -> dict[str, Image]:
    """The images that are checked, made if need be. Raises `Unavailable`: something is missing for that."""
    if os.geteuid() != 0:
        raise Unavailable("namespaces and other accounts need root")
    targets, builder = compose.targets(deploy / "compose.yaml"), Builder(REPOSITORY, CACHE)
    return {name: builder.image(targets[name]) for name in _CHECKED_IMAGES}


def check(
    names: Sequence[str], home: Path, images: Mapping[str, Image], report: Report, deploy: Path = DEPLOY
) -> list[str]:
    """The faults of these scenarios. `home`: one with a published bundle. `deploy`: the folder of the files. This
    process, and what it starts from now on, has a network of its own afterwards."""
    _leave_network()
    faults: list[str] = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="recsys-deploy-") as folder:
            work = Path(folder)
            report(f"{name}: starts its servers")
            with SCENARIOS[name](deploy, work) as scenario, _names(scenario.hosts, work):
                run = _Run(scenario, images, work, home, partial(_prefixed, report, name))
                with run.cleaned_up():
                    run.all()
                faults += [f"{name}: {fault}" for fault in run.faults]
    return faults


def _prefixed(report: Report, name: str, line: str) -> None:
    report(f"{name}: {line}")


class _Run:
    """One scenario."""

    def __init__(
        self, scenario: Scenario, images: Mapping[str, Image], work: Path, home: Path, report: Report
    ) -> None:
        self._scenario = scenario
        self._images = images
        self._work = work
        self._report = report
        self._running: dict[str, tuple[Container, Sandbox]] = {}
        self._shared = work / "shared"
        self.faults: list[str] = []
        volume = self._shared / scenario.volume
        shutil.copytree(home, volume)
        subprocess.run(["chown", "-R", _USER, volume], check=True)

    def all(self) -> None:
        containers = [each for each in self._scenario.containers if self._is_checked(each)]
        left_out = [each.name for each in self._scenario.containers if not self._is_checked(each)]
        self._report(f"left out: {', '.join(left_out) or 'nothing'}")
        for container in (each for each in containers if each.ends and each.image != _TRAINING):
            self._run_to_its_end(container, _ENDS_S)
        for container in sorted((each for each in containers if not each.ends), key=_turn):
            self._make_room(container)
            self._start(container)
            if _turn(container) == _LATER.index("api"):
                self._with_faults(self._exercise)
            elif _turn(container) == _LATER.index("relay"):
                self._with_faults(self._see_relay)
        for container in (each for each in containers if each.ends and each.image == _TRAINING):
            self._run_to_its_end(container, _NIGHT_S)
        for name in list(self._running):
            self._stop(name)

    def _is_checked(self, container: Container) -> bool:
        return container.image in self._images and container.name not in _NOT_CHECKED

    @contextmanager
    def cleaned_up(self) -> Iterator[None]:
        try:
            yield
        finally:
            for _, sandbox in self._running.values():
                sandbox.close()

    def _sandbox(self, container: Container) -> Sandbox:
        image = self._images[container.image]
        entrypoint = container.entrypoint or image.entrypoint
        arguments = image.arguments if container.arguments is None else container.arguments
        return Sandbox(
            container,
            image.root,
            (*entrypoint, *arguments),
            image.environ,
            image.folder,
            self._work / container.name,
            self._shared,
            dict.fromkeys(self._scenario.hosts, "127.0.0.1"),
            [VENV.resolve()],
        )

    def _run_to_its_end(self, container: Container, timeout_s: float) -> None:
        sandbox = self._sandbox(container)
        sandbox.start()
        with self._noting(container, sandbox):
            sandbox.wait_ended(timeout_s)
            self._report(f"{container.name}: ended by itself")

    def _start(self, container: Container) -> None:
        sandbox = self._sandbox(container)
        sandbox.start()
        self._running[container.name] = container, sandbox
        with self._noting(container, sandbox):
            sandbox.wait_ready()
            self._report(f"{container.name}: ready, by {len(container.probes)} probes")

    def _stop(self, name: str) -> None:
        container, sandbox = self._running.pop(name)
        with self._noting(container, sandbox):
            sandbox.stop()
            self._report(f"{name}: ended at SIGTERM")
        sandbox.close()

    def _make_room(self, container: Container) -> None:
        """Stop what listens on the same ports: there is only one network."""
        for name, (other, _) in list(self._running.items()):
            if set(other.ports) & set(container.ports):
                self._stop(name)

    @contextmanager
    def _noting(self, container: Container, sandbox: Sandbox) -> Iterator[None]:
        try:
            yield
        except RecsysError as error:
            self._fault(str(error))
        if line := sandbox.denied():
            self._fault(f"{container.name} was denied something: {line}")

    def _with_faults(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (RecsysError, httpx.HTTPError) as error:
            self._fault(f"{step.__name__.strip('_')}: {error}")

    def _fault(self, text: str) -> None:
        if text not in self.faults:
            self.faults.append(text)
            self._report(f"FAULT: {text}")

    def _exercise(self) -> None:
        """An event through API, Kafka, worker and archiver; a change of an item; what admins may do."""
        event = {"type": "click", "user_id": "check", "item_id": "check"}
        self._ask("POST", "/v1/events", event, 202)
        _wait("the worker has applied the event", lambda: _metric("recsys_stream_events_total") >= 1)
        lake = self._shared / self._scenario.volume / "lake" / "events"
        _wait("the archiver has written the event", lambda: any(lake.rglob("events-*.parquet")))
        self._send_broken_record()
        self._ask("POST", "/v1/items", {"items": [{"item_id": "check", "title": "Check"}]}, 200)
        self._ask("DELETE", "/v1/users/check", None, 200)
        version = current_version(self._shared / self._scenario.volume / "bundles")
        self._ask("POST", f"/v1/bundles/{version}/activate", None, 200)
        self._report("api: took an event and an item, forgot a user, switched the bundle")

    def _send_broken_record(self) -> None:
        """The worker moves it to the dead letters, if it may."""
        if self._scenario.kafka is None:
            return
        with (
            closing(KafkaSink(self._scenario.kafka)) as sink,
            closing(KafkaSource(self._scenario.kafka)) as source,
        ):
            sink.append(Topic.EVENTS, "check", b"broken")
            sink.flush()
            _wait("the worker has refused a broken record", lambda: bool(list(read_dead_letters(source))))

    def _see_relay(self) -> None:
        _wait("the relay has delivered the changes", lambda: _metric("recsys_relay_delivered_total") >= 2)

    def _ask(self, method: str, path: str, body: object, expected: int) -> None:
        headers = {"X-API-Key": self._scenario.key} if self._scenario.key else {}
        answer = httpx.request(method, f"http://127.0.0.1:8000{path}", json=body, headers=headers, timeout=30)
        if answer.status_code // 100 != expected // 100:
            raise Fault(f"{method} {path} is answered with {answer.status_code}: {answer.text[:300]}")


def _turn(container: Container) -> int:
    return next((turn for turn, name in enumerate(_LATER) if container.name.startswith(name)), -1)


def _metric(name: str) -> float:
    """The sum of a metric at the port of worker and relay."""
    text = httpx.get("http://127.0.0.1:9100/metrics", timeout=5).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def _wait(what: str, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _ARRIVES_S
    while not happened():
        if time.monotonic() > deadline:
            raise Fault(f"waited {_ARRIVES_S:.0f} s until {what}")
        time.sleep(0.2)


def _leave_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWNS | _NEWNET):
        raise Unavailable(f"namespaces: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@contextmanager
def _names(hosts: Sequence[str], work: Path) -> Iterator[None]:
    """The servers' names lead to loopback for this process, too."""
    file = work / "hosts"
    file.write_text(f"127.0.0.1 localhost {' '.join(hosts)}\n", encoding="ascii")
    subprocess.run(["mount", "--bind", file, "/etc/hosts"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "/etc/hosts"], check=True)
