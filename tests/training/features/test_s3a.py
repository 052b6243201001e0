"""The Spark job on a lake in S3, by `s3a://` to moto's server or MinIO. Not part of a usual run: the jars have 690 MB.

    HADOOP_AWS_JARS=FOLDER pytest tests/training/features/test_s3a.py

FOLDER has `hadoop-aws` in the version of pyspark's `hadoop-client-api`, and what it needs
(`infra/setup/rare_servers.sh`).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

pytest.importorskip("boto3")

from recsys.lake.forget import mark_forgotten
from recsys.lake.mirror import push
from recsys.lake.object_store import ObjectStore
from tests.object_stores import KEY, SECRET
from tests.training.features.test_job import LOG, read, write_lake
from training.features.local import build_examples

_JARS = os.environ.get("HADOOP_AWS_JARS")

pytestmark = [
    pytest.mark.spark,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not _JARS, reason="HADOOP_AWS_JARS names no folder with hadoop-aws and its jars"),
]


def build(endpoint: str, home: Path, bucket: str) -> dict[str, Any]:
    settings = {
        "spark.jars": ",".join(map(str, sorted(Path(str(_JARS)).glob("*.jar")))),
        "spark.hadoop.fs.s3a.endpoint": endpoint,
        "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.access.key": KEY,
        "spark.hadoop.fs.s3a.secret.key": SECRET,
    }
    options = [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    places = ("--lake", f"s3a://{bucket}/lake", "--output", f"s3a://{bucket}/features")
    command = (sys.executable, "-m", "infra.cli.main", "features", "build", "--master", "local[2]", *places)
    environ = os.environ | {"RECSYS_HOME": str(home)}
    done = subprocess.run(
        [*command, *options, "--json"], env=environ, stdout=subprocess.PIPE, text=True, check=True
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("pushed", [False, True])
def test_a_lake_in_s3_gives_the_examples_of_a_local_one(
    s3_endpoint: str, bucket: str, tmp_path: Path, pushed: bool
) -> None:
    """Copied there by any program, or by `recsys lake push`."""
    lake = write_lake(tmp_path, LOG)
    store = fs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, endpoint_override=s3_endpoint, region="us-east-1"
    )
    local = fs.LocalFileSystem()
    if pushed:
        mark_forgotten(lake, "somebody else", 1)
        push(lake, ObjectStore(f"s3://{bucket}/lake"))
    else:
        fs.copy_files(str(lake), f"{bucket}/lake", source_filesystem=local, destination_filesystem=store)
    first, again = build(s3_endpoint, tmp_path, bucket), build(s3_endpoint, tmp_path, bucket)
    assert first["days"] > 0
    assert (again["days"], again["skipped"]) == (0, first["days"])
    assert build_examples(lake, tmp_path / "local" / "examples") == first["examples"] > 0
    fs.copy_files(
        f"{bucket}/features", str(tmp_path / "s3"), source_filesystem=store, destination_filesystem=local
    )
    assert read(tmp_path / "s3").equals(read(tmp_path / "local"))
    found = store.get_file_info(fs.FileSelector(f"{bucket}/features", recursive=True))
    assert not [file.path for file in found if "_building-" in file.path], "nothing of the staging folder"
