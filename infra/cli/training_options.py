"""`--config`, `--set` and `--show-config` of the commands that train: any configuration class, by dotted keys.

The command's own choice comes first, the file changes it, `--set` and the command's other options change that. Whatever
results is validated by the class as a whole.
"""

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import typer
import yaml
from pydantic import RootModel, ValidationError

from infra.cli.config_schema import Setting, settings_of
from recsys.contracts.errors import InvalidConfig
from recsys.operator_files import read_yaml
from training.config import Config

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings, as `--show-config` prints them.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as shape.dim=128; repeatable."),
]
ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="Print the settings as YAML, with what each means, and exit.")
]
C = TypeVar("C", bound=Config)
_NEAREST = 3  # keys that an error suggests
_SHOWN = 60  # characters of a value in an error


@dataclass(frozen=True)
class Planned(Generic[C]):
    """What a command would train with.

    All by dotted keys. decided: what the command itself decides, and by what: it can neither be set nor is it shown.
    reasons: why the command chose this value. given: the option of the command line that gave it.
    """

    config: C
    decided: Mapping[str, str]
    reasons: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingOptions:
    """The three options of one call."""

    file: Path | None = None
    changes: Sequence[str] = ()
    show: bool = False

    def of(self, planned: Planned[C]) -> C:
        """The configuration to train with. With `--show-config`, print it and end the command.

        Raises:
            InvalidConfig: a key is unknown, decided by the command or given twice, or a value is not allowed.
        """
        known = settings_of(type(planned.config))
        content = planned.config.model_dump(mode="json")
        sources: dict[str, str] = {}
        for source, key, value in [*self._from_file(known, planned.given), *self._from_line(known)]:
            _check(source, key, value, known, planned.decided)
            if source == "--set" and key in planned.given:
                raise InvalidConfig(f"{key}: given by {planned.given[key]} and by --set; leave one of them")
            content = _changed(content, key.split("."), value)
            sources[key] = source
        try:
            config = type(planned.config).model_validate(content)
        except ValidationError as error:
            raise InvalidConfig(_explained(error, known, sources)) from error
        if self.show:
            typer.echo(as_yaml(config, planned.decided, _reasons(planned, config)), nl=False)
            raise typer.Exit
        return config

    def _from_file(
        self, known: Mapping[str, Setting], given: Mapping[str, str]
    ) -> Iterator[tuple[str, str, object]]:
        """The file's settings, except those that an option of the command line gives."""
        if self.file is not None:
            content = read_yaml(self.file, RootModel[dict[str, Any]], InvalidConfig).root
            settings = _flat(content, known, "")
            yield from ((str(self.file), key, value) for key, value in settings if key not in given)

    def _from_line(self, known: Mapping[str, Setting]) -> Iterator[tuple[str, str, object]]:
        for change in self.changes:
            key, equals, text = change.partition("=")
            if not equals:
                raise InvalidConfig(f"--set {change}: write it as KEY=VALUE, such as --set {change}=1")
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise InvalidConfig(f"--set {change}: not a value of YAML; quote it") from error
            yield from (("--set", *pair) for pair in _flat({key: value}, known, ""))


def _flat(
    content: Mapping[Any, Any], known: Mapping[str, Setting], prefix: str
) -> Iterator[tuple[str, object]]:
    """Nested sections as dotted keys."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key in known and known[key].is_section:
            yield from _flat(value, known, f"{key}.")
        else:
            yield key, value


def _check(
    source: str, key: str, value: object, known: Mapping[str, Setting], decided: Mapping[str, str]
) -> None:
    for part, by in decided.items():
        if key == part or key.startswith(f"{part}."):
            raise InvalidConfig(f"{source}: {key} cannot be set: {by}")
    if key not in known:
        near = _nearest(key, [name for name in known if name not in decided])
        raise InvalidConfig(f"{source}: unknown setting {key}; the nearest: {', '.join(near)}")
    if isinstance(value, bool) and not known[key].takes_booleans:  # pydantic would take true for 1
        raise InvalidConfig(f"{source}: {key}: {str(value).lower()} is not allowed: {known[key].allowed}")


def _nearest(key: str, known: Sequence[str]) -> list[str]:
    """By the whole key or by its last part: `dims` is near `shape.dim`."""

    def likeness(name: str) -> float:
        pairs = (key, name), (key.rpartition(".")[2], name.rpartition(".")[2])
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return sorted(known, key=likeness, reverse=True)[:_NEAREST]


def _changed(content: Any, path: Sequence[str], value: object) -> Any:
    """Nested dictionaries with another value at the path; what is empty on the way becomes a section."""
    if not path:
        return value
    inside = content if isinstance(content, dict) else {}
    return {**inside, path[0]: _changed(inside.get(path[0]), path[1:], value)}


def _reasons(planned: Planned[C], config: C) -> dict[str, str]:
    """Those for values that are still what the command chose."""

    def value(of: Config, key: str) -> object:
        return functools.reduce(getattr, key.split("."), of)

    return {
        key: reason
        for key, reason in planned.reasons.items()
        if key not in planned.given and value(config, key) == value(planned.config, key)
    }


def _explained(error: ValidationError, known: Mapping[str, Setting], sources: Mapping[str, str]) -> str:
    """Each problem with its source, its key and what is allowed."""
    problems: list[str] = []
    for e in error.errors():
        key = ".".join(map(str, e["loc"]))
        while key and key not in known:  # a place in a list
            key = key.rpartition(".")[0]
        source = next(
            (source for changed, source in sources.items() if not key or f"{changed}.".startswith(f"{key}.")),
            "",
        )
        if e["type"] == "value_error":  # settings that do not go together
            problem = str(e["ctx"]["error"])
        else:
            problem = f"{str(e['input'])[:_SHOWN]} is not allowed: {known[key].allowed}"
        problems.append(": ".join(part for part in (source, key, problem) if part))
    return "; ".join(problems)


def as_yaml(config: Config, decided: Mapping[str, str], reasons: Mapping[str, str]) -> str:
    """Every setting that is not decided by the command, each below a comment: its meaning, range, and reason."""
    known = settings_of(type(config))
    return "\n".join(_lines(config.model_dump(mode="json"), known, "", decided, reasons)) + "\n"


def _lines(
    content: Mapping[str, Any],
    known: Mapping[str, Setting],
    prefix: str,
    decided: Mapping[str, str],
    reasons: Mapping[str, str],
) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for name, value in content.items():
        key, setting = prefix + name, known[prefix + name]
        if key in decided:
            continue
        is_open = setting.is_section and bool(value)
        comment = setting.meaning if is_open else f"{setting.meaning} {_sentence(setting.allowed)}"
        for text in (comment.strip(), _sentence(reasons.get(key, ""))):
            if text:
                yield f"{indent}# {text}"
        if is_open:
            yield f"{indent}{name}:"
            yield from _lines(value, known, f"{key}.", decided, reasons)
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _scalar(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return re.sub(r"\n(\.\.\.\n)?$", "", text)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
