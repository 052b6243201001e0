"""A batch job's terminal shows the command's own lines only; everything else is in its log file."""

import logging
import os
import warnings
from pathlib import Path

import pytest

from infra.cli.logs import JobFailed, job_log
from recsys.contracts.errors import InvalidData


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
