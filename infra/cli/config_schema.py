"""The settings of a configuration class by dotted keys: what each means and what it may be, from its JSON schema."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

Schema = Mapping[str, Any]
_BOOLEAN = "true or false"
_KINDS = {"boolean": _BOOLEAN, "integer": "an integer", "number": "a number", "null": "null"}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


@dataclass(frozen=True)
class Setting:
    """meaning: its description. allowed: its type and range in words; of a section, the names of its settings."""

    meaning: str
    allowed: str
    is_section: bool

    @property
    def takes_booleans(self) -> bool:
        return _BOOLEAN in self.allowed


def settings_of(cls: type[BaseModel]) -> dict[str, Setting]:
    """Every key of the class in its order; a section (`shape`) comes before its settings (`shape.dim`)."""
    schema = cls.model_json_schema()
    return dict(_settings(schema, schema.get("$defs", {}), ""))


def _settings(schema: Schema, known: Schema, prefix: str) -> Iterator[tuple[str, Setting]]:
    for name, field in schema["properties"].items():
        choices = [_resolved(choice, known) for choice in field.get("anyOf", [field])]
        sections = [section for choice in choices if (section := _section(choice, known))]
        allowed = " or ".join(_allowed(choice, known) for choice in choices)
        meaning = field.get("description", "")
        yield prefix + name, Setting(meaning, allowed, bool(sections))
        for section in sections:
            yield from _settings(section, known, f"{prefix}{name}.")


def _resolved(schema: Schema, known: Schema) -> Schema:
    return {**known[schema["$ref"].rpartition("/")[2]], **schema} if "$ref" in schema else schema


def _section(schema: Schema, known: Schema) -> Schema | None:
    """What has settings of its own: another configuration class, or a mapping from an enum."""
    if "properties" in schema:
        return schema
    names = _resolved(schema.get("propertyNames", {}), known).get("enum", ())
    return {"properties": dict.fromkeys(names, schema["additionalProperties"])} if names else None


def _allowed(schema: Schema, known: Schema) -> str:
    if section := _section(schema, known):
        return f"the settings {', '.join(section['properties'])}"
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if schema.get("type") == "array":
        return f"a list, each {_allowed(_resolved(schema['items'], known), known)}"
    limits = [f"{words} {schema[name]:g}" for name, words in _LIMITS.items() if name in schema]
    return ", ".join([_KINDS.get(schema.get("type", ""), "text"), *limits])
