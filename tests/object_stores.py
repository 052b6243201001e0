"""A local S3 for tests, in a process of its own: moto's server, or the MinIO that the environment's `MINIO` names
(`infra/setup/rare_servers.sh` builds one)."""

import importlib.util
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local.process import ChildProcess, free_port

KEY, SECRET = "AKIAOFTHETESTS", "the-secret-of-the-tests"


@contextmanager
def s3_server(log: Path, port: int = 0, environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """Its endpoint. `environ`: further variables of moto; MinIO believes no other key as it is."""
    port = port or free_port()
    if program := os.environ.get("MINIO"):
        command = [program, "server", str(log.with_suffix(".data")), "--address", f"127.0.0.1:{port}"]
        environ = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_BROWSER": "off"}
        server, started = ChildProcess(command, log, environ=os.environ | environ), "API: "
    else:
        server, started = _moto(log, port, environ or {}), "Running on"
    try:
        server.wait_until(lambda: started in log.read_text(), 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


def _moto(log: Path, port: int, environ: Mapping[str, str]) -> ChildProcess:
    if importlib.util.find_spec("boto3") is None or importlib.util.find_spec("moto") is None:
        pytest.skip("no boto3 and moto: pip install '.[s3,dev]'")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return ChildProcess(command, log, environ={**os.environ, **environ})


def variables(endpoint: str) -> dict[str, str]:
    """The environment of a client."""
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def new_bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, name: str = "") -> str:
    """Its name. The environment has what reaches it until the end of the test."""
    import boto3

    for variable, value in variables(endpoint).items():
        monkeypatch.setenv(variable, value)
    name = name or f"shop-{uuid.uuid4().hex[:12]}"
    boto3.session.Session().client("s3").create_bucket(Bucket=name)
    return name
