"""Every command loads, has help with an example, and shows it without loading heavy libraries."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.core import TyperGroup, TyperOption

from infra.cli.main import COMMANDS, load


def leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(command, TyperGroup):
        for child, sub in command.commands.items():
            yield from leaves(f"{name} {child}", sub)
    else:
        yield name, command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_its_example(name: str) -> None:
    for path, command in leaves(name, load(name)):
        assert command.help, path
        assert f"Example: recsys {path}" in command.help, path
        for option in command.params:
            if isinstance(option, TyperOption):
                assert option.help, f"{path}: {option.name} has no help"


HEAVY = ("torch", "pyspark", "faiss", "onnxruntime", "pyarrow", "sklearn", "scipy", "pandas", "fastapi")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loads_no_heavy_library(name: str) -> None:
    """In one process per command: the help of the command itself and of each subcommand."""
    calls = [path.split() for path, _ in leaves(name, load(name))]
    code = f"""
import sys
from contextlib import suppress
from infra.cli.main import app
for call in {calls}:
    with suppress(SystemExit):
        app([*call, "--help"])
    loaded = [module for module in {HEAVY} if module in sys.modules]
    assert not loaded, (call, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == len(calls)


def test_an_unknown_setting_is_one_sentence_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "bundle", "list"],
        capture_output=True,
        text=True,
        check=False,
        env={"RECSYS_HOEM": "x", "PATH": ""},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "RECSYS_HOEM" in done.stderr
    assert "Traceback" not in done.stderr
