"""Run a container: its own mounts and process ids, a read-only root, an account without rights.

The network is the caller's. Memory limits, seccomp profiles and network policies are not applied.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx

from infra.deploy_check.containers import Container, Kind, Mount, Probe
from infra.local.process import ChildProcess
from recsys.contracts.errors import RecsysError, Unavailable

# what a process writes that needed a place it does not have
_DENIED = ("Read-only file system", "Permission denied", "Operation not permitted")
_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
_POLL_S = 0.2


class Fault(RecsysError):
    """A container does not run as its manifest says."""


def chrooted(root: Path, command: Sequence[str]) -> list[str]:
    """The command line that runs a command as root in another root, to build it."""
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, str(root), *command]


class Sandbox:
    """One container. `root`: of its image. `shared`: folder of the volumes that containers share. `work`: a new folder
    for this container. `visible`: folders of this machine that the image's links lead to."""

    def __init__(
        self,
        container: Container,
        root: Path,
        command: Sequence[str],
        environ: Mapping[str, str],
        folder: str,
        work: Path,
        shared: Path,
        hosts: Mapping[str, str],
        visible: Sequence[Path],
    ) -> None:
        self._container = container
        self._work = work
        named = {container.name: "127.0.0.1"} | dict(hosts)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in named.items())]
        for name in ("upper", "overlay", "root", "volumes"):
            (work / name).mkdir(parents=True)
        (work / "hosts").write_text("\n".join(lines) + "\n", encoding="utf-8")
        script = work / "start.sh"
        script.write_text("\n".join(self._mounting(root, shared, visible)) + "\n", encoding="utf-8")
        self._as_user = self._account(environ, folder)
        namespaces = ("--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--propagation=private")
        self._command = [
            *("unshare", *namespaces, "sh", "-e", str(script)),
            *("chroot", str(work / "root"), *self._as_user, *command),
        ]
        self._child: ChildProcess | None = None

    @property
    def log(self) -> Path:
        return self._work / "log"

    def start(self) -> None:
        self._child = ChildProcess(self._command, self.log)

    def wait_ready(self) -> None:
        """Raises `Fault`: it ended, or a probe does not succeed in time."""
        child = self._started()
        for probe in self._container.probes:
            try:
                child.wait_until(partial(self._succeeds, probe), probe.patience_s)
            except Unavailable as error:
                raise Fault(f"{self._container.name}: {_described(probe)}: {_short(error)}") from None

    def wait_ended(self, timeout_s: float) -> None:
        """Raises `Fault`: it failed, or did not end in time."""
        try:
            self._started().finish(timeout_s)
        except Unavailable as error:
            raise Fault(f"{self._container.name}: {_short(error)}") from None

    def stop(self) -> None:
        """SIGTERM to its first process, as an engine sends it. Raises `Fault`: it does not end within its time."""
        child = self._started()
        if not child.alive:
            raise Fault(f"{self._container.name} has ended: {_short(child.log_tail())}")
        os.kill(self._first_process(), signal.SIGTERM)
        deadline = time.monotonic() + self._container.grace_s
        while child.alive:
            if time.monotonic() > deadline:
                child.kill()
                raise Fault(
                    f"{self._container.name} did not end {self._container.grace_s:.0f} s after SIGTERM"
                )
            time.sleep(_POLL_S)

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()

    def denied(self) -> str:
        """What its log says that it could not do; empty: nothing."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        found = re.search(rf".{{0,120}}(?:{'|'.join(_DENIED)}).{{0,120}}", text)
        return found[0] if found else ""

    def _started(self) -> ChildProcess:
        if self._child is None:
            raise Fault(f"{self._container.name} was not started")
        return self._child

    def _first_process(self) -> int:
        """The one that `unshare` waits for. Raises `ProcessLookupError`: it has ended."""
        parent = self._started().pid
        children = Path(f"/proc/{parent}/task/{parent}/children")
        for child in children.read_text(encoding="ascii").split() if children.exists() else ():
            return int(child)
        raise ProcessLookupError

    def _succeeds(self, probe: Probe) -> bool:
        if probe.command:
            try:
                target = f"--target={self._first_process()}"
                inside = ["nsenter", "--mount", "--pid", "--root", target]
                done = subprocess.run(
                    [*inside, *self._as_user, *probe.command],
                    capture_output=True,
                    timeout=probe.timeout_s + 5,  # starting a namespace is not the container's time
                    check=False,
                )
            except (ProcessLookupError, subprocess.TimeoutExpired):
                return False
            return done.returncode == 0
        if not probe.path:
            with socket.socket() as client:
                client.settimeout(probe.timeout_s)
                return client.connect_ex(("127.0.0.1", probe.port)) == 0
        try:
            answer = httpx.get(f"http://127.0.0.1:{probe.port}{probe.path}", timeout=probe.timeout_s)
            return answer.status_code < 400
        except httpx.HTTPError:
            return False

    def _account(self, environ: Mapping[str, str], folder: str) -> list[str]:
        user, group = str(self._container.user), self._container.group
        groups = f"--groups={group}" if group is not None else "--clear-groups"
        given = {"HOME": folder} | dict(environ) | dict(self._container.environ)
        return [
            *("/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", groups),
            *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
            *(
                "/usr/bin/env",
                f"--chdir={folder}",
                "-i",
                *(f"{name}={value}" for name, value in given.items()),
            ),
        ]

    def _mounting(self, root: Path, shared: Path, visible: Sequence[Path]) -> Iterator[str]:
        """The lines of a shell script. Mount points are made above the image's files, then the root is closed."""
        top = self._work / "root"
        layers = f"lowerdir={root},upperdir={self._work / 'upper'},workdir={self._work / 'overlay'}"
        yield shlex.join(["mount", "-t", "overlay", "overlay", "-o", layers, str(top)])
        yield f"cd {shlex.quote(str(top))}"
        yield "mkdir -p proc dev && mount -t proc proc proc && mount -t tmpfs -o mode=755 dev dev"
        for name, minor in _DEVICES.items():
            yield f"mknod -m 666 dev/{name} c 1 {minor}"
        yield "ln -s /proc/self/fd dev/fd"  # for bash's <(…)
        yield "mkdir -m 1777 dev/shm && mount -t tmpfs shm dev/shm"
        yield shlex.join(["cp", str(self._work / "hosts"), "etc/hosts"])
        for path in visible:
            yield from _bound(path, path, read_only=True)
        for number, mount in enumerate(sorted(self._container.mounts, key=lambda m: m.path)):
            yield from _bound(self._source(mount, number, shared), Path(mount.path), mount.read_only)
        yield shlex.join(["mount", "-o", "remount,ro", str(top)])
        yield shlex.join(["hostname", self._container.name])
        yield 'exec "$@"'

    def _source(self, mount: Mount, number: int, shared: Path) -> Path:
        """The folder that is mounted, as an engine prepares it: of the pod's group, or of the image's user."""
        if mount.kind is Kind.SHARED:
            folder = shared / mount.name
            folder.mkdir(exist_ok=True)
            self._hand_over(folder)
            if mount.folder:
                folder /= mount.folder
                folder.mkdir(parents=True, exist_ok=True)
                self._hand_over(folder)
            return folder
        folder = self._work / "volumes" / str(number)
        folder.mkdir()
        for name, content in mount.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        if mount.kind is Kind.EMPTY:
            self._hand_over(folder)
        return folder

    def _hand_over(self, folder: Path) -> None:
        if self._container.group is None:
            shutil.chown(folder, self._container.user, self._container.user)
        else:
            shutil.chown(folder, 0, self._container.group)
            folder.chmod(0o2775)


def _bound(source: Path, path: Path, read_only: bool) -> Iterator[str]:
    target = f".{path}"
    yield shlex.join(["mkdir", "-p", target])
    yield shlex.join(["mount", "--bind", str(source), target])
    if read_only:
        yield shlex.join(["mount", "-o", "remount,bind,ro", target])


def _short(said: object) -> str:
    """Its beginning and its end: a traceback has what matters there."""
    text = str(said)
    return text if len(text) <= 600 else f"{text[:150]} … {text[-400:]}"


def _described(probe: Probe) -> str:
    if probe.command:
        return f"the probe {' '.join(probe.command)}"
    return f"the probe of port {probe.port}{probe.path}"
