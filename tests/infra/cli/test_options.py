"""No command drops an option silently: one that would have no effect is refused, by name and with what to do. No error
names an option that no command has."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from infra.cli.main import COMMANDS, app, load
from infra.cli.options import refuse
from recsys.contracts.errors import InvalidConfig

CONFLICTS = [
    ("train rank --compress --clean", "--clean", "leave it, or --compress"),
    ("train all --first --robust 0.1", "--robust", "leave it, or --first"),
    ("train ladder --robust 0.1", "--robust", "add --lake"),
    ("train nightly --full --full-every 3", "--full-every", "--full trains in full"),
    ("train ladder --epochs 2", "--epochs", "add --lake"),
    ("train ladder --lake --quick", "--quick", "leave it, or --lake"),
    ("tune rank --quick --trials 9", "--trials", "--quick tries 3 students"),
    ("features list --json --markdown", "--markdown", "choose --json or --markdown"),
    ("features diff before.json --bundle", "saved", "leave one of them"),
    ("evaluate recall --protocol given --data d", "--data", "given reads --train and --test"),
    ("evaluate recall --protocol temporal --data d --train a", "--train", "add --protocol given"),
    ("evaluate recall --protocol temporal --data d --order kept", "--order", "add --protocol given"),
    (
        "evaluate recall --protocol leave-one-out --data d --train a --test b",
        "--train, --test",
        "add --protocol given",
    ),
    (
        "evaluate recall --protocol ml-1m --data d --validate-until 2026-01-02 --train-until 2026-01-01",
        "--train-until, --validate-until",
        "add --protocol temporal",
    ),
    (
        "evaluate recall --protocol given --train a --test b --train-until 2026-01-01",
        "--train-until",
        "add --protocol temporal",
    ),
    ("evaluate rank --data d --quick --seeds 2", "--seeds", "--quick trains one seed"),
    ("evaluate rank-benchmark --data d --quick --seeds 2", "--seeds", "--quick trains one seed"),
    (
        "evaluate rank --data d --protocol kuairand --train-until 2026-01-01 --newest 9",
        "--train-until, --newest",
        "add --protocol temporal",
    ),
    (
        "evaluate rank --data d --train-until 2026-01-01 --validate-until 2026-01-02 --train-share 0.7",
        "--train-share",
        "splits by days",
    ),
    (
        "evaluate rank-benchmark --data d --quick --contributions",
        "--contributions",
        "--quick trains one seed",
    ),
    ("train all --first --compress --seed 1", "--compress", "--first has its own"),
    ("train all --first --rank-epochs 2", "--rank-epochs", "--first has its own"),
    ("train all --first --config a.yaml --set recall.epochs=2", "--config, --set", "--first has its own"),
    ("bench recall --gpu --plot p.png", "--plot", "--gpu measures"),
    ("serve --new-key shop --port 1 --workers 2", "--port, --workers", "starts nothing"),
    ("serve --new-key shop --role rank", "--role", "starts nothing"),
    ("serve --new-key shop --uds s", "--uds", "starts nothing"),
    ("serve --scope read", "--scope", "add --new-key NAME"),
    ("serve --uds s --host h --port 1", "--host, --port", "leave one of them"),
    ("demo --mapping m.yaml", "--mapping", "add --data FOLDER"),
    ("data import d --mapping m.yaml --format recbole", "--format", "leave one of them"),
    ("data validate d --mapping m.yaml --format kuairand", "--format", "leave one of them"),
    ("stream traffic --world w.json --api a --users 3", "--users", "--world has its own users"),
    (
        "stream traffic --world w.json --api a --skew 1 --seed 2",
        "--skew, --seed",
        "--world has its own users",
    ),
    ("stream traffic --days 2", "--days", "add --world FILE"),
    ("stream traffic --day 1 --k 5", "--day, --k", "add --world FILE"),
    ("index tune --vectors v.safetensors --items 2000", "--items", "--vectors names a file"),
]


@pytest.mark.parametrize(("command", "options", "advice"), CONFLICTS, ids=[c for c, _, _ in CONFLICTS])
def test_an_option_without_effect_is_refused(command: str, options: str, advice: str) -> None:
    error = CliRunner().invoke(app, command.split()).exception
    assert isinstance(error, InvalidConfig)
    assert str(error).startswith(f"{options} has no effect here: ")
    assert advice in str(error)


def test_only_options_on_the_command_line_are_refused() -> None:
    example = typer.Typer()

    @example.command()
    def run(ctx: typer.Context, quick: bool = False, trials: int = 3) -> None:
        refuse(ctx, quick, ["trials"], "leave it")

    for line in ([], ["--quick"], ["--trials", "3"]):
        assert CliRunner().invoke(example, line).exit_code == 0
    # a value that equals the default was still asked for
    assert isinstance(CliRunner().invoke(example, ["--quick", "--trials", "3"]).exception, InvalidConfig)


_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
_PACKAGES = ("recsys", "streaming", "serving", "training", "infra")


def _options(command: Any) -> set[str]:
    own = {name for parameter in command.params for name in parameter.opts}
    return own.union(*map(_options, getattr(command, "commands", {}).values()))


def _texts(node: ast.AST) -> str:
    return " ".join(
        n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    )


def test_no_error_names_an_option_that_no_command_has() -> None:
    """Nor, as `recsys COMMAND --option`, one of another command."""
    commands = {name: load(name) for name in COMMANDS}
    of_all = set().union(*map(_options, commands.values()))
    paths = [path for package in _PACKAGES for path in Path(package).rglob("*.py")]
    errors = [
        _texts(n) for path in paths for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Raise)
    ]
    named = {(option, text) for text in errors for option in _OPTION.findall(text)}
    assert len(named) > 10
    assert not {(option, text) for option, text in named if option not in of_all}
    for text in errors:
        for words in re.findall(r"`recsys ([a-z][a-z -]+)`", text):
            command: Any = commands[words.split()[0]]
            for word in words.split()[1:]:
                if word.startswith("--"):
                    assert word in _options(command), words
                elif word in getattr(command, "commands", {}):
                    command = command.commands[word]
