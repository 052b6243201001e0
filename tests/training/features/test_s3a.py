"""The Spark job on a lake in S3, by `s3a://` to moto's server. Not part of a usual run: the jars have 690 MB.

    HADOOP_AWS_JARS=FOLDER pytest tests/training/features/test_s3a.py

FOLDER has `hadoop-aws` in the version of pyspark's `hadoop-client-api`, and what it needs (docs/production.md).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from infra.local.process import ChildProcess, free_port
from tests.training.features.test_job import LOG, read, write_lake
from training.features.local import build_examples

_JARS, _MOTO = os.environ.get("HADOOP_AWS_JARS"), shutil.which("moto_server")
_ACCOUNT = ("key", "secret")

pytestmark = [
    pytest.mark.spark,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not _JARS, reason="HADOOP_AWS_JARS names no folder with hadoop-aws and its jars"),
    pytest.mark.skipif(not _MOTO, reason="no moto_server: pip install 'moto[server]'"),
]


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    server = ChildProcess([str(_MOTO), "-H", "127.0.0.1", "-p", str(port)], tmp_path / "moto.log")
    server.wait_until(lambda: "Running on" in server.log.read_text(), 60)
    yield f"http://127.0.0.1:{port}"
    server.stop()


def build(endpoint: str, home: Path) -> dict[str, Any]:
    settings = {
        "spark.jars": ",".join(map(str, sorted(Path(str(_JARS)).glob("*.jar")))),
        "spark.hadoop.fs.s3a.endpoint": endpoint,
        "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.access.key": _ACCOUNT[0],
        "spark.hadoop.fs.s3a.secret.key": _ACCOUNT[1],
    }
    options = [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    command = ("features", "build", "--master", "local[2]", "--lake", "s3a://shop/lake")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "infra.cli.main",
            *command,
            "--output",
            "s3a://shop/features",
            *options,
            "--json",
        ],
        env=os.environ | {"RECSYS_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_lake_in_s3_gives_the_examples_of_a_local_one(endpoint: str, tmp_path: Path) -> None:
    lake = write_lake(tmp_path, LOG)
    store = fs.S3FileSystem(
        access_key=_ACCOUNT[0],
        secret_key=_ACCOUNT[1],
        endpoint_override=endpoint,
        region="us-east-1",
        allow_bucket_creation=True,
    )
    store.create_dir("shop")
    local = fs.LocalFileSystem()
    fs.copy_files(str(lake), "shop/lake", source_filesystem=local, destination_filesystem=store)
    first, again = build(endpoint, tmp_path), build(endpoint, tmp_path)
    assert first["days"] > 0
    assert (again["days"], again["skipped"]) == (0, first["days"])
    assert build_examples(lake, tmp_path / "local" / "examples") == first["examples"] > 0
    fs.copy_files(
        "shop/features", str(tmp_path / "s3"), source_filesystem=store, destination_filesystem=local
    )
    assert read(tmp_path / "s3").equals(read(tmp_path / "local"))
    left = [file.path for file in store.get_file_info(fs.FileSelector("shop/features", recursive=True))]
    assert not [path for path in left if "_building-" in path], "nothing of the staging folder"
