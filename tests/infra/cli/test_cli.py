"""Every command can be loaded and has help with an example; the light ones stay light."""

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


@pytest.mark.parametrize(
    ("name", "heavy"),
    [
        ("stream", ("torch", "pyspark", "faiss")),
        ("serve", ("torch", "pyspark")),
        ("bundle", ("torch", "faiss")),
    ],
)
def test_a_command_loads_only_what_it_needs(name: str, heavy: tuple[str, ...]) -> None:
    loaded = f"print([m for m in {heavy} if m in sys.modules])"
    code = f"import sys; from infra.cli.main import load; load({name!r}); {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
