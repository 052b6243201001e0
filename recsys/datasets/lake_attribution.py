"""How a lake's outcomes are attributed: as the mappings of its data sets say."""

from pathlib import Path

import msgspec

from recsys.contracts.attribution import Attribution
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.operator_files import read_json


class _Report(msgspec.Struct):
    """What is needed of an `ImportReport`."""

    attribution: str = "auto"


def lake_attribution(lake: Path) -> Attribution:
    """`auto` for a lake without imports.

    Raises:
        InvalidConfig: its data sets differ, so that only the caller can choose.
        InvalidData: the report of an import cannot be read.
    """
    found = {
        path.stem: read_json(path, _Report, InvalidData).attribution
        for path in (lake / "imports").glob("*.json")
    }
    if len(set(found.values())) > 1:
        named = ", ".join(f"{name}: {text}" for name, text in sorted(found.items()))
        raise InvalidConfig(
            f"{lake}: attributions of its data sets differ ({named}); choose one with --attribution"
        )
    return parse_attribution(next(iter(found.values()), "auto"))


def parse_attribution(text: str) -> Attribution:
    """Raises `InvalidConfig`: another text than `Attribution.parse` takes."""
    try:
        return Attribution.parse(text)
    except ValueError as error:
        raise InvalidConfig(f"attribution: {error}") from None
