"""The compiled part of request path and feature worker: C++ in `src`, built by setup.py where a compiler is found.

Each call replaces Python code that stays: it defines what is computed, explains, serves where nothing was built, and is
what the tests compare with.
"""

from enum import StrEnum
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from recsys.contracts.errors import InvalidConfig


class Native(StrEnum):
    """Whether compiled code is used."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


def _load() -> tuple[Any, str]:
    """The compiled module, or None and why there is none."""
    try:
        built = import_module("recsys.native._core")
    except ImportError as error:
        return None, f"{error}: install a C++ compiler, then `pip install .` again"
    sources = Path(__file__).parent / "src"  # not part of a wheel
    if sources.is_dir():
        files = sorted(sources.iterdir())
        if sha256(b"".join(file.read_bytes() for file in files)).hexdigest() != getattr(built, "SOURCES", ""):
            return (
                None,
                f"{built.__file__} was built from other sources: `make setup`, or `pip install .` again",
            )
    return built, ""


core, MISSING = _load()


def serves(wanted: Native) -> bool:
    """Whether the compiled code serves where the setting is `wanted`.

    Raises:
        InvalidConfig: it must, and was not built.
    """
    if wanted is Native.ON and core is None:
        raise InvalidConfig(f"RECSYS_NATIVE=on: {MISSING}")
    return wanted is not Native.OFF and core is not None


def described(wanted: Native) -> str:
    """Which code serves, for people: "native", or "python" and why."""
    if serves(wanted):
        return "native"
    return "python: RECSYS_NATIVE=off" if wanted is Native.OFF else f"python: {MISSING}"
