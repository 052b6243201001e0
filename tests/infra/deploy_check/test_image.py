"""The Dockerfile and the lock files as they are read."""

from pathlib import Path

import pytest

from infra.deploy_check.image import _copy_program, chain, locked, read_dockerfile

ROOT = Path(__file__).parents[3]
FILE = """# comment
ARG PYTHON=3.11-slim-bookworm@sha256:0
FROM python:${PYTHON} AS wheels
RUN pip install -r locks/serving.txt

FROM wheels AS more
RUN apt-get update \\
 && apt-get install x
ARG EMPTY
FROM python:${PYTHON} AS base
ENV A=1 \\
    B=2
"""


def test_stages_have_their_own_steps() -> None:
    stages = read_dockerfile(FILE)
    assert list(stages) == ["wheels", "more", "base"]
    assert stages["base"].base == "python:3.11-slim-bookworm@sha256:0"
    assert [word for word, _ in stages["more"].steps] == ["RUN"]
    assert stages["more"].steps[0][1].split() == ["apt-get", "update", "&&", "apt-get", "install", "x"]
    assert stages["base"].steps[0][1].split() == ["A=1", "B=2"]
    assert chain(stages, "more") == ["wheels", "more"]


def test_the_dockerfile_itself_is_understood() -> None:
    stages = read_dockerfile((ROOT / "infra" / "deploy" / "docker" / "Dockerfile").read_text())
    assert chain(stages, "serving") == ["base", "serving"]
    steps = [step for name in chain(stages, "serving") for step in stages[name].steps]
    words = {word for word, _ in steps}
    assert words == {"RUN", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "COPY", "EXPOSE", "CMD"}


def test_a_lock_names_what_this_platform_needs() -> None:
    text = """# make lock
alembic==1.20.1 \\
    --hash=sha256:1
psycopg-binary==3.3.9 ; implementation_name != 'pypy' \\
    --hash=sha256:2
pywin32==311 ; sys_platform == 'win32' \\
    --hash=sha256:3
"""
    assert list(locked(text)) == ["alembic", "psycopg-binary"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"#!/home/me/.venv/bin/python\nprint()\n", b"#!/opt/recsys/bin/python\nprint()\n"),
        (b"#!/usr/bin/env bash\nexec python x\n", b"#!/usr/bin/env bash\nexec python x\n"),
        (b"\x7fELF\npython", b"\x7fELF\npython"),
    ],
)
def test_programs_run_by_the_images_python(text: bytes, expected: bytes, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(text)
    (tmp_path / "here").chmod(0o755)
    _copy_program(tmp_path / "here", tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == expected
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o755
