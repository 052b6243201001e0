"""The documents are true: their settings are the code's, their commands exist, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.core import TyperCommand, TyperGroup

from infra.cli.main import COMMANDS, load
from infra.cli.settings_table import ALL, settings_table
from recsys.contracts.errors import InvalidConfig
from recsys.settings import Settings, refuse_unknown

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(?:bash|sh|console)?\n(.*?)```", re.DOTALL)


def commands(document: Path) -> list[str]:
    """Every `recsys …` line of the code blocks, without comments and line continuations."""
    lines = [
        line.split("#")[0].strip()
        for block in BLOCK.findall(document.read_text(encoding="utf-8"))
        for line in block.replace("\\\n", " ").splitlines()
    ]
    starts = [re.sub(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?", "", line) for line in lines]
    return sorted({line for line in starts if line.startswith("recsys ")})


def test_the_table_of_settings_is_the_codes() -> None:
    assert settings_table() in (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"), (
        "paste the output of `python -m infra.cli.settings_table` into docs/configuration.md"
    )


@pytest.mark.parametrize("cls", ALL)
def test_every_setting_is_described(cls: type[Settings]) -> None:
    assert all(field.description for field in cls.model_fields.values())


def test_unknown_settings_are_refused() -> None:
    refuse_unknown(ALL, {"RECSYS_HOME": "x", "PATH": "y"})
    with pytest.raises(InvalidConfig, match="RECSYS_HOEM"):
        refuse_unknown(ALL, {"RECSYS_HOEM": "x"})
    with pytest.raises(ValidationError):
        Settings.model_validate({"hoem": "x"})


@pytest.mark.parametrize(
    ("document", "line"),
    [(d.relative_to(ROOT), line) for d in DOCUMENTS for line in commands(d)],
    ids=lambda value: str(value),
)
def test_every_documented_command_exists_with_its_options(document: Path, line: str) -> None:
    words = shlex.split(line.split("|")[0].split(">")[0].rstrip("& "))[1:]
    assert words[0] in COMMANDS, f"{document}: `{line}`: no command {words[0]!r}"
    command: TyperCommand | TyperGroup = load(words.pop(0))
    while words and not words[0].startswith("-") and isinstance(command, TyperGroup):
        assert words[0] in command.commands, f"{document}: `{line}`: no command {words[0]!r}"
        command = command.commands[words.pop(0)]  # type: ignore[assignment]
    if "--help" in words or isinstance(command, TyperGroup):
        return
    parser = command.make_parser(command.context_class(command))
    given, more, _ = parser.parse_args(words)  # raises for unknown options, and for those without their value
    assert not more, f"{document}: `{line}`: too many arguments: {more}"
    missing = {p.name for p in command.params if p.required and given.get(p.name or "") in (None, ())}
    assert not missing, f"{document}: `{line}`: {missing} must be given"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name}: {target}"
