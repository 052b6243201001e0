"""The `recsys` command. Groups and commands live in `infra/cli/commands` and are imported when they are called:
`recsys stream worker` must not load torch, and `recsys --help` must not load anything.
"""

import importlib
from collections.abc import Mapping
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from infra.cli.logs import own_stderr
from infra.cli.settings_table import ALL
from infra.terminal import one_sentence_on_error
from recsys.observability.logs import configure_logs
from recsys.settings import Settings, refuse_unknown

# command or group → its module in infra.cli.commands, and its line in `recsys --help`
COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("demo", "Run the whole loop once: import, stream, train, serve, click."),
    "quickstart": ("quickstart", "Serve lists from your own tables within about a minute."),
    "up": ("services", "Run the embedded Redis and Kafka until Ctrl-C."),
    "status": ("services", "Show which parts are reachable and which bundle is published."),
    "serve": ("serve", "Serve the API with the published bundle."),
    "explain": ("explain", "Show the funnel of one request: sources, scores, moves, removals."),
    "size": ("size", "Estimate processes, memory, partitions and cost for a load."),
    "data": ("data", "Fetch, validate and import data sets."),
    "lake": ("lake", "Push the lake to an object store, pull it from there."),
    "topics": ("topics", "Create, check and grow the topics of a Kafka."),
    "stream": ("stream", "Feature worker, archiver, relay, replay, dead letters."),
    "db": ("db", "The database of items and users: tables, import, export, comparison."),
    "simulate": ("simulate", "Simulate a shop's users, or fit a response model to a real log."),
    "ab": ("ab", "Report the results of experiments and their significance."),
    "features": ("features", "Build training examples with Spark; list and compare definitions."),
    "train": ("train", "Train the models and publish a bundle."),
    "tune": ("tune", "Search for better parameters."),
    "index": ("index", "Measure nearest-neighbour indexes and choose one."),
    "evaluate": ("evaluate", "Measure offline quality against baselines."),
    "bench": ("bench", "Run benchmarks against their goals."),
    "report": ("report", "Print tables and plots of measurements."),
    "case-study": ("case_study", "Measure the rows of the case study."),
    "drill": ("drill", "Run fault-injection tests: kill parts under load, then verify the data."),
    "users": ("users", "Forget a user: in Redis at once, in the lake with the next compaction."),
    "bundle": ("bundle", "List, inspect, verify and publish bundles."),
    "release": ("release", "Release a bundle: gate, shadow, canary, promotion or rollback."),
    "autopilot": ("autopilot", "Release what is proposed, and train when it is due, until Ctrl-C."),
}


class LazyGroup(TyperGroup):
    """Imports a command on first use (click's documentation, "Lazily loading subcommands").

    `Any`: typer carries its own copy of click, whose types have no public name.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stub, enough for the list in the help; `resolve_command` returns the real command."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name and command else command, rest


def load(name: str) -> TyperCommand | TyperGroup:
    """Import one command or group."""
    module = importlib.import_module(f"infra.cli.commands.{COMMANDS[name][0]}")
    group = typer.main.get_group(module.app)
    if module.__name__.rpartition(".")[2] == name and name not in group.commands:
        group.name = name
        return group
    return cast("TyperCommand", group.commands[name])


app = typer.Typer(cls=LazyGroup, name="recsys", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback(help="Train, stream and serve recommendations. Start with `recsys demo`.")
def _root() -> None: ...


def main() -> None:
    """Entry point of the console script."""
    own_stderr()
    with one_sentence_on_error():
        refuse_unknown(ALL)
        configure_logs(Settings().log_level)
        app()


if __name__ == "__main__":
    main()
