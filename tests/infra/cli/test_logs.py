"""A batch job's terminal shows the command's own lines only; everything else is in its log file."""

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from infra.cli.logs import JobFailed, job_log
from recsys.contracts.errors import InvalidData
from recsys.contracts.events import Event
from recsys.contracts.types import EventType
from recsys.lake.lake import EVENTS, day_writer, events_table

NOW_MS = 1_700_000_000_000


def test_what_libraries_print_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "job.log"
    with job_log(log):
        os.write(2, b"from a child process\n")
        logging.getLogger("library").warning("from a logger")
        warnings.warn("from a warning", stacklevel=1)
    os.write(2, b"afterwards\n")
    assert [
        text for text in ("child process", "logger", "warning") if f"from a {text}" in log.read_text()
    ] == [
        "child process",
        "logger",
        "warning",
    ]
    assert capfd.readouterr().err == "afterwards\n"


def test_an_unexpected_error_names_the_log_which_has_the_traceback(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    with pytest.raises(JobFailed, match=f"ValueError: first line; the details are in {log}"), job_log(log):
        raise ValueError("first line\nsecond line")
    assert "Traceback" in log.read_text()
    assert "second line" in log.read_text()


def test_an_expected_error_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="^no lake$"), job_log(tmp_path / "job.log"):
        raise InvalidData("no lake")


@pytest.mark.slow
@pytest.mark.spark
def test_a_features_build_prints_its_own_lines_only(tmp_path: Path) -> None:
    events = [
        Event(f"e{n}", EventType.CLICK, f"u{n % 3}", f"i{n % 5}", NOW_MS + n * 60_000) for n in range(20)
    ]
    with day_writer(tmp_path / "lake", EVENTS, "import-test") as writer:
        writer.write(events_table(events))
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "features", "build", "--master", "local[1]", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RECSYS_HOME": str(tmp_path)},
    )
    assert json.loads(done.stdout)["events"] == 20
    assert done.stderr.splitlines() == [
        "1 days to build, 0 are up to date",
        "20 events read",
        f"{json.loads(done.stdout)['examples']} examples written",
    ]
    assert "log4j" in (tmp_path / "logs" / "spark.log").read_text()
