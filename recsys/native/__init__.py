"""The compiled part of request path and feature worker: C++ in `src`, built by setup.py where a compiler is found.

Each call replaces Python code that stays: it defines what is computed, explains, serves where nothing was built, and is
what the tests compare with.
"""

from enum import StrEnum
from importlib import import_module
from typing import Any

from recsys.contracts.errors import InvalidConfig


class Native(StrEnum):
    """Whether compiled code is used."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


core: Any = None  # recsys.native._core; None: it was not built
MISSING = ""  # why
try:
    core = import_module("recsys.native._core")
except ImportError as error:
    MISSING = f"{error}: install a C++ compiler, then `pip install .` again"


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
