"""The session on a cluster: executors of their own get the code with the job."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path

import pytest

from infra.local.process import ChildProcess, free_port
from recsys.spark_session import is_local, write_code
from tests.serving.waiting import eventually
from tests.training.features.test_job import LOG, read, write_lake
from tests.yarn_cluster import yarn_cluster
from training.features.local import build_examples


@pytest.mark.parametrize(
    ("master", "local"),
    [
        ("local", True),
        ("local[2]", True),
        ("local-cluster[2,1,1024]", False),
        ("spark://host:7077", False),
        ("yarn", False),
    ],
)
def test_who_runs_the_tasks(master: str, local: bool) -> None:
    assert is_local(master) is local


def test_the_archive_has_all_that_tasks_import(tmp_path: Path) -> None:
    """Without `site`, so that no installation of this project is found."""
    program = """
import training.features.job, training.features.state_job, streaming.spark.tasks, recsys.store.redis_client
for module in (training.features.job, streaming.spark.tasks, recsys.store.redis_client):
    assert ".zip" in module.__file__
recsys.store.redis_client.script("apply.lua")
"""
    paths = [str(write_code(tmp_path / "code.zip")), sysconfig.get_path("purelib")]
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {paths!r}\n{program}"],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.spark
@pytest.mark.slow
def test_what_spark_submit_was_given_holds(tmp_path: Path) -> None:
    """As when Kubernetes' operator starts the job in its own image."""
    program = tmp_path / "program.py"
    program.write_text(
        "from recsys.spark_session import spark_session\n"
        "context = spark_session('local[7]', '7g').sparkContext\n"
        "print('found', context.master, context.getConf().get('spark.executor.memory', 'none'))\n"
    )
    submit = str(files("pyspark") / "bin" / "spark-submit")
    done = subprocess.run(
        [submit, "--master", "local[1]", str(program)],
        env=os.environ | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "found local[1] none" in done.stdout


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A standalone master with two workers of one core each."""
    with ExitStack() as opened:

        def start(name: str, program: str, started: str, *options: str) -> None:
            address = ("--host", "127.0.0.1", "--webui-port", str(free_port()))
            log = tmp_path / f"{name}.log"
            command = [str(files("pyspark") / "bin" / "spark-class"), f"org.apache.spark.deploy.{program}"]
            environ = os.environ | {"SPARK_HOME": str(files("pyspark")), "SPARK_LOCAL_IP": "127.0.0.1"}
            process = ChildProcess([*command, *address, *options], log, environ=environ)
            opened.callback(process.stop)
            process.wait_until(lambda: started in log.read_text(), 120)

        port = str(free_port())
        url = f"spark://127.0.0.1:{port}"
        start("master", "master.Master", "I have been elected leader", "--port", port)
        for name in ("work-0", "work-1"):
            size = ("--cores", "1", "--memory", "1g", "--work-dir", str(tmp_path / name))
            start(name, "worker.Worker", "Successfully registered", *size, url)
        yield url


def assert_builds_what_one_machine_builds(folder: Path, environ: Mapping[str, str], *options: str) -> None:
    lake = write_lake(folder, LOG)
    places = ("--lake", str(lake), "--output", str(folder / "spark"))
    few = (
        "--memory",
        "512m",
        "--conf",
        "spark.sql.shuffle.partitions=4",
    )  # of 200, which little data does not need
    command = (sys.executable, "-m", "infra.cli.main", "features", "build", *few, *places)
    subprocess.run(
        [*command, *options], env={**os.environ, "RECSYS_HOME": str(folder), **environ}, check=True
    )
    assert build_examples(lake, folder / "local" / "examples") > 0
    assert read(folder / "spark").equals(read(folder / "local"))


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_builds_what_one_machine_builds(cluster: str, tmp_path: Path) -> None:
    assert_builds_what_one_machine_builds(tmp_path, {"RECSYS_SPARK_MASTER": cluster})
    executors = [sum(1 for _ in (tmp_path / name).glob("app-*/*")) for name in ("work-0", "work-1")]
    assert min(executors) > 0, "both workers had one"


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_executors_of_their_own_on_one_machine_build_the_same(tmp_path: Path) -> None:
    environ = {"RECSYS_SPARK_MASTER": "local-cluster[2,1,1024]", "SPARK_HOME": str(files("pyspark"))}
    assert_builds_what_one_machine_builds(tmp_path, environ | {"SPARK_LOCAL_IP": "127.0.0.1"})


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif("YARN_JARS" not in os.environ, reason="YARN_JARS names no folder with YARN's jars")
def test_yarn_builds_what_one_machine_builds(tmp_path: Path) -> None:
    """Not part of a usual run: `infra/setup/rare_servers.sh` fetches the jars."""
    # executors find Spark's own jars where they are here, instead of 400 MB that are uploaded
    jars, staging = f"local:{files('pyspark')}/jars/*", f"file://{tmp_path}/staging"
    options = ("--conf", f"spark.yarn.jars={jars}", "--conf", f"spark.yarn.stagingDir={staging}")
    with yarn_cluster(Path(os.environ["YARN_JARS"]), tmp_path / "yarn") as conf:
        environ = {"RECSYS_SPARK_MASTER": "yarn", "HADOOP_CONF_DIR": str(conf), "SPARK_LOCAL_IP": "127.0.0.1"}
        assert_builds_what_one_machine_builds(tmp_path, environ, *options)
        log = tmp_path / "yarn" / "resource-manager.log"
        eventually(lambda: "Application Finished - Succeeded" in log.read_text())
        executors = {
            path.parent.name for path in (tmp_path / "yarn" / "containers").glob("application_*/*/stderr")
        }
        assert len(executors) >= 3, "the application's master, and two executors"


def test_documents_name_the_hadoop_that_spark_has() -> None:
    (jar,) = Path(str(files("pyspark"))).glob("jars/hadoop-client-api-*.jar")
    version = jar.stem.removeprefix("hadoop-client-api-")
    for page in ("features", "production"):
        text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text()
        assert re.findall(r"hadoop-aws:([\d.]+\d)", text) == [version], page
