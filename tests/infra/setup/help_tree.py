"""Print the help of every command, in one process: `python help_tree.py`, by the Python of any environment.

Needs nothing but the installed project. Fails at the first command whose help does.
"""

import sys
from collections.abc import Iterator
from typing import Any

from typer.core import TyperGroup

from infra.cli.main import COMMANDS, app, load


def paths(name: str, command: Any) -> Iterator[str]:
    """A command's own path, and those of the commands in it."""
    yield name
    for child, sub in command.commands.items() if isinstance(command, TyperGroup) else ():
        yield from paths(f"{name} {child}", sub)


def main() -> None:
    for path in ["", *(path for name in COMMANDS for path in paths(name, load(name)))]:
        try:
            app([*path.split(), "--help"])
        except SystemExit as ended:
            if ended.code:
                sys.exit(f"recsys {path} --help: exit code {ended.code}")


if __name__ == "__main__":
    main()
