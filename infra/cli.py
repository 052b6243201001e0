"""The `recsys` command. Groups and commands live in `infra/commands`, one group a file."""

import importlib

import typer

from infra.console import one_sentence_on_error
from infra.settings_table import ALL
from recsys.settings import refuse_unknown

# `recsys <group> …`: the module of that name in infra.commands has an `app`.
GROUPS = ("data", "train", "bundle", "stream")
# Modules whose `app` has commands of the top level: `recsys up`, `recsys serve`, …
TOP_LEVEL = ("demo", "services")


def build_app() -> typer.Typer:
    """Every command, put together."""
    app = typer.Typer(
        name="recsys",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        help="Train, stream and serve recommendations. Start with `recsys demo`.",
    )
    for name in TOP_LEVEL:
        app.add_typer(importlib.import_module(f"infra.commands.{name}").app)
    for name in GROUPS:
        app.add_typer(importlib.import_module(f"infra.commands.{name}").app, name=name)
    return app


def main() -> None:
    """Entry point of the console script."""
    with one_sentence_on_error():
        refuse_unknown(ALL)
        build_app()()


if __name__ == "__main__":
    main()
