"""The `recsys` command: one group a file in `infra/commands`."""

import importlib

import typer

from infra.console import one_sentence_on_error

app = typer.Typer(
    name="recsys",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Train, stream and serve recommendations. Start with `recsys demo`.",
)

# group → module in infra.commands that has an `app`; top-level commands register themselves on `app` below
_GROUPS = ("data", "features", "train", "bundle", "stream")


def _assemble() -> None:
    for group in _GROUPS:
        app.add_typer(importlib.import_module(f"infra.commands.{group}").app, name=group)


def main() -> None:
    """Entry point of the console script."""
    _assemble()
    with one_sentence_on_error():
        app()


if __name__ == "__main__":
    main()
