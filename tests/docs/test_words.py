"""The glossary's forbidden words stay out of what people read: help, settings, documents, strings and comments."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup

from infra.cli.main import COMMANDS, load
from infra.cli.settings_table import ALL

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
PACKAGES = ("recsys", "streaming", "serving", "training", "infra")
DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")} - {GLOSSARY}
)
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def forbidden() -> re.Pattern[str]:
    """The left column of the glossary's second table, as one pattern of whole words."""
    table = GLOSSARY.read_text(encoding="utf-8").split("| not | but |")[1]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    words = [word.strip() for row in rows for word in row.split(",")]
    assert len(words) > 20
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)


FORBIDDEN = forbidden()


def found_in(text: str) -> list[str]:
    """Each forbidden word of `text` with its surroundings. A phrase may span two lines."""
    text = re.sub(r"\s+", " ", text)
    return [text[max(0, found.start() - 40) : found.end() + 40] for found in FORBIDDEN.finditer(text)]


def prose(source: str) -> Iterator[str]:
    """Every string and every comment of a module: docstrings, error texts, log events, help."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def helps(name: str, command: TyperCommand | TyperGroup) -> Iterator[tuple[str, str]]:
    yield name, command.help or ""
    for parameter in command.params:
        yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""
    if isinstance(command, TyperGroup):
        for child, subcommand in command.commands.items():
            yield from helps(f"{name} {child}", subcommand)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_use_the_fields_words(path: Path) -> None:
    assert not found_in(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_uses_the_fields_words(name: str) -> None:
    assert not [(where, text) for where, text in helps(name, load(name)) if found_in(text)]


def test_descriptions_of_settings_use_the_fields_words() -> None:
    described = [(name, field.description or "") for cls in ALL for name, field in cls.model_fields.items()]
    assert not [(name, text) for name, text in described if found_in(text)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_uses_the_fields_words(path: Path) -> None:
    assert not [found for text in prose(path.read_text(encoding="utf-8")) for found in found_in(text)]


def test_a_forbidden_word_is_found() -> None:
    assert len(found_in("The worker goes\non.\nFine.\nOne rung lower.")) == 2
    assert [text for text in prose('x = 1  # It goes on\n"""Anew."""') if found_in(text)] == [
        "Anew.",
        "# It goes on",
    ]
