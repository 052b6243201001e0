"""`recsys lake`: what it prints and refuses, and that no output has a credential."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("boto3")

from infra.local.process import ChildProcess, free_port
from tests.object_stores import KEY, SECRET, new_bucket, s3_server, variables
from tests.recsys.lake.test_mirror import BEFORE, content, write


def client(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RECSYS_"))
    }
    own = {"RECSYS_HOME": str(home), "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_CONFIG_FILE": os.devnull}
    return inherited | own | variables(endpoint) | {"RECSYS_LOG_LEVEL": "debug", "COLUMNS": "1000"} | more


def run(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*arguments), env=environ, capture_output=True, text=True, check=False)
    assert SECRET not in done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr
    return done


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "infra.cli.main", "lake", *arguments]


@pytest.fixture
def url(bucket: str) -> str:
    return f"s3://{bucket}/lake"


@pytest.fixture(scope="module")
def strict_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 that knows no key."""
    with s3_server(
        tmp_path_factory.mktemp("strict") / "moto.log", environ={"INITIAL_NO_AUTH_ACTION_COUNT": "0"}
    ) as endpoint:
        yield endpoint


def test_push_status_and_pull(url: str, s3_endpoint: str, tmp_path: Path) -> None:
    write(tmp_path / "here" / "lake", BEFORE)
    here, there = (client(s3_endpoint, tmp_path / name, RECSYS_LAKE_STORE=url) for name in ("here", "there"))
    nothing = run(there, "pull", "--json")
    assert (nothing.returncode, "has no lake yet" in nothing.stderr) == (2, True)
    assert json.loads(run(there, "pull", "--allow-missing", "--json").stdout) == {"snapshot": 0}
    pushed = json.loads(run(here, "push", "--json").stdout)
    done = {"snapshot": 1, "changed": True, "files": 4, "bytes": 7, "deleted": 0}
    assert pushed == done | {"differing": 0, "marks_kept": 0}
    assert "│ snapshot   │ 1" in run(there, "pull").stdout
    assert content(tmp_path / "there" / "lake").items() >= BEFORE.items()
    found = json.loads(run(there, "status", "--json").stdout)
    assert (found["there"], found["here"], found["changed_here"]) == (1, 1, 0)


def test_each_refusal_is_one_line_without_credentials(
    url: str, s3_endpoint: str, strict_endpoint: str, tmp_path: Path
) -> None:
    write(tmp_path / "lake", BEFORE)
    usual = client(s3_endpoint, tmp_path)
    stranger = client(strict_endpoint, tmp_path) | {"AWS_ACCESS_KEY_ID": "AKIAOFNOBODY"}
    without = {name: value for name, value in usual.items() if not name.startswith("AWS_ACCESS")}
    away = client(f"http://127.0.0.1:{free_port()}", tmp_path)
    cases = [
        (
            usual,
            "s3://no-such-bucket-of-ours/lake",
            "there is no bucket 'no-such-bucket-of-ours'; create it first",
        ),
        (stranger, url, "the store refuses these credentials (InvalidAccessKeyId)"),
        (without, url, "no credentials; set AWS_ACCESS_KEY_ID"),
        (away, url, "cannot be reached: EndpointConnectionError"),
        (usual, f"s3://{KEY}:{SECRET}@shop/lake", "a lake's URL has no credentials"),
        (usual, "gs://shop/lake", "is not a place for a lake: name s3://BUCKET/FOLDER"),
        (usual, "s3://Shop!/lake", "is not a place for a lake"),
        (usual, "", "or set RECSYS_LAKE_STORE"),
    ]
    for environ, place, message in cases:
        for verb in ("push", "pull", "status"):
            done = run(environ, verb, *([place] if place else []))
            assert (done.returncode, done.stdout) == (2, ""), (verb, place, done.stderr)
            last = done.stderr.rstrip().splitlines()[-1]
            assert last.startswith("error: ") and message in last, (verb, place, done.stderr)
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--every", "1", "--json"), "--json prints one object"),
        (("--every", "nan"), "--every"),
        (("--every", "inf"), "--every is a number of seconds"),
    ],
)
def test_pushes_without_an_end_are_refused_what_they_cannot_do(
    arguments: tuple[str, ...], message: str, url: str, s3_endpoint: str, tmp_path: Path
) -> None:
    done = run(client(s3_endpoint, tmp_path), "push", url, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_pull_that_discards_names_the_marks_that_the_store_lacks(
    url: str, s3_endpoint: str, tmp_path: Path
) -> None:
    here, there = (client(s3_endpoint, tmp_path / name, RECSYS_LAKE_STORE=url) for name in ("here", "there"))
    write(tmp_path / "here" / "lake", BEFORE | {"forget/u.json": "u"})
    run(here, "push")
    run(there, "pull")
    assert "forget these users again" not in run(there, "pull", "--discard").stderr
    write(tmp_path / "there" / "lake", {"forget/v.json": "v", "items/items.parquet": "9"})
    done = run(there, "pull", "--discard", "--json")
    assert json.loads(done.stdout)["snapshot"] == 1
    assert "users forgotten only here: 1; forget these users again" in done.stderr
    assert content(tmp_path / "there" / "lake").items() >= (BEFORE | {"forget/v.json": "v"}).items()


def test_pushes_continue_over_an_outage_until_the_process_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here" / "lake", BEFORE)
    port = free_port()
    environ = client(f"http://127.0.0.1:{port}", tmp_path / "here")
    process = ChildProcess(
        command("push", "s3://shop/lake", "--every", "0.2"), tmp_path / "push.log", environ=environ
    )
    try:
        process.wait_until(lambda: "the lake is not pushed" in process.log.read_text(), 60)
        os.kill(process.pid, signal.SIGSTOP)
        with s3_server(tmp_path / "moto.log", port) as endpoint:
            new_bucket(endpoint, monkeypatch, "shop")
            os.kill(process.pid, signal.SIGCONT)
            process.wait_until(lambda: '"snapshot": 1' in process.log.read_text(), 60)
            write(tmp_path / "here" / "lake", {"items/items.parquet": "2"})
            process.wait_until(lambda: '"snapshot": 2' in process.log.read_text(), 60)
            os.kill(process.pid, signal.SIGTERM)
            process.wait_until(lambda: not process.alive, 60)
    finally:
        process.stop()
    assert process.exit_code == 0
