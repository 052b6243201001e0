"""What a container may and may not do, with the programs of this machine in a root of links."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.deploy_check.containers import Container, Kind, Mount, Probe
from infra.deploy_check.sandbox import Fault, Sandbox

Make = Callable[..., Sandbox]
USER = 10001


def _why_not() -> str:
    if os.geteuid() != 0:
        return "other accounts and namespaces need root"
    if not Path("/lib").is_symlink():
        return "programs are not in /usr alone"
    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else f"no namespaces: {done.stderr!r}"


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "-")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    root, shared = tmp_path / "image", tmp_path / "shared"
    (root / "etc").mkdir(parents=True)
    shared.mkdir()
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    made: list[Sandbox] = []

    def sandbox(script: str, *mounts: Mount, **more: Any) -> Sandbox:
        fields = {"grace_s": 5.0} | more
        container = Container("it", "recsys:serving", (), {"SET": "by manifest"}, mounts, USER, **fields)
        environ = {"PATH": "/usr/bin:/bin", "SET": "by image"}
        work = tmp_path / f"work-{len(made)}"
        command = ("sh", "-c", script)
        made.append(
            Sandbox(
                container, root, command, environ, "/", work, shared, {"redis": "127.0.0.1"}, [Path("/usr")]
            )
        )
        made[-1].start()
        return made[-1]

    yield sandbox
    for each in made:
        each.close()


def said(sandbox: Sandbox) -> str:
    return sandbox.log.read_text()


def test_only_declared_mounts_can_be_written_and_a_missing_one_is_a_fault(make: Make) -> None:
    write = "echo x > /data/file && echo written"
    whole = make(write, Mount("/data", Kind.EMPTY))
    whole.wait_ended(10)
    assert (said(whole), whole.denied()) == ("written\n", "")
    missing = make("mkdir /data && " + write)
    with pytest.raises(Fault, match="ended with 1"):
        missing.wait_ended(10)
    assert "Read-only file system" in missing.denied()
    closed = make(write, Mount("/data", Kind.SHARED, name="home", read_only=True))
    with pytest.raises(Fault):
        closed.wait_ended(10)
    assert "Read-only file system" in closed.denied()


def test_shared_folders_outlive_a_container_and_part_of_a_closed_one_may_be_open(make: Make) -> None:
    make("mkdir /home/lake && echo 1 > /home/lake/a", Mount("/home", Kind.SHARED, name="v")).wait_ended(10)
    home = Mount("/home", Kind.SHARED, name="v", read_only=True)
    part = Mount("/home/lake", Kind.SHARED, name="v", folder="lake")
    second = make("cat /home/lake/a; echo 2 > /home/lake/b; cat /home/lake/b; ! touch /home/c", part, home)
    second.wait_ended(10)
    assert said(second).splitlines()[:2] == ["1", "2"]


def test_it_has_the_account_and_nothing_else(make: Make) -> None:
    secret = Mount("/etc/secret", Kind.FILES, files={"deep/password": b"p"}, read_only=True)
    sandbox = make(
        "id -u; id -g; id -G; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status;"
        "cat /etc/secret/deep/password; echo; echo $SET $$; cat /etc/hosts",
        secret,
        group=20002,
    )
    sandbox.wait_ended(10)
    user, group, groups, effective, bounding, rights, password, rest, *hosts = said(sandbox).splitlines()
    assert (user, group, groups) == ("10001", "10001", "10001 20002")
    assert (effective.split()[1], bounding.split()[1]) == ("0" * 16, "0" * 16)
    assert rights.split()[1] == "1"
    assert password == "p"
    assert rest == "by manifest 1"  # the first process
    assert "127.0.0.1 redis" in hosts


def test_a_container_is_ready_when_its_probes_say_so(make: Make) -> None:
    asks = Probe(10, command=("test", "-e", "/tmp/ready"))
    ready = make("sleep .3; touch /tmp/ready; exec sleep 60", Mount("/tmp", Kind.EMPTY), probes=(asks,))
    ready.wait_ready()
    never = make("exec sleep 60", probes=(Probe(0.5, port=1),))
    with pytest.raises(Fault, match="port 1"):
        never.wait_ready()
    ended = make("echo why; exit 3", probes=(asks,))
    with pytest.raises(Fault, match="ended with 3: why"):
        ended.wait_ready()


def test_who_does_not_end_at_sigterm_is_a_fault(make: Make) -> None:
    up = (Probe(10, command=("test", "-e", "/tmp/up")),)
    tmp = Mount("/tmp", Kind.EMPTY)
    polite = make("trap 'exit 0' TERM; touch /tmp/up; while :; do sleep .1; done", tmp, probes=up)
    polite.wait_ready()
    polite.stop()
    # the first process of a container gets no signal that it does not handle
    deaf = make("touch /tmp/up; while :; do sleep .1; done", tmp, probes=up, grace_s=0.5)
    deaf.wait_ready()
    with pytest.raises(Fault, match="did not end 0 s after SIGTERM"):
        deaf.stop()


def test_it_has_what_an_engine_gives_a_shell(make: Make) -> None:
    it = make("hostname && grep -c ' it$' /etc/hosts && test -e /dev/fd/0")
    it.wait_ended(10)
    assert said(it) == "it\n1\n"
