"""`recsys simulate`: a seeded world of users and items, a response model fitted to a real log, or RecoGym's users."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.options import refuse
from infra.terminal import JsonFlag, QuickFlag, finish, print_mapping
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import MS_PER_DAY
from recsys.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="Simulate a shop's users, fit a response model to a real log, or play another simulator's users.",
)


@app.command()
def history(
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 2_000,
    items: Annotated[int, typer.Option(min=1, help="Number of items on the first day.")] = 2_000,
    days: Annotated[int, typer.Option(min=1, help="Number of days in the log.")] = 7,
    k: Annotated[int, typer.Option(min=1, help="Items per list.")] = 10,
    ahead: Annotated[int, typer.Option(min=0, help="Days left for `recsys stream traffic`.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the world.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write the log of a simulated shop into the lake, and the world's configuration to <home>/world.json.

    The shop shows best sellers and items drawn at random. Build features, train and serve as with any data set, then
    let the same users visit: `recsys stream traffic --world var/world.json`.

    Example: recsys simulate history --users 2000 --items 2000 --days 7
    """
    from recsys.datasets.catalogue import items_path
    from recsys.simulation.clock import CLOCK_FILE, WorldClock, wall_ms, write_clock
    from recsys.simulation.history import HistoryConfig, write_history
    from recsys.simulation.world import WorldConfig, create_world

    settings = Settings()
    # outside the lake: training must not see the ground truth
    path = settings.home / "world.json"
    if items_path(settings.lake).exists():
        raise InvalidConfig(
            f"{settings.lake} already has a catalogue, which the simulated one would replace: choose another"
            f" RECSYS_HOME, or move {settings.lake} away"
        )
    today_ms = wall_ms() // MS_PER_DAY * MS_PER_DAY
    start_ms = today_ms - (days + ahead) * MS_PER_DAY
    config = WorldConfig(seed=seed, users=users, items=items, days=days + 30, start_ms=start_ms)
    written = write_history(create_world(config), settings.lake, HistoryConfig(days=days, k=k))
    path.write_text(config.model_dump_json(indent=1), encoding="utf-8")
    ends_ms = start_ms + days * MS_PER_DAY
    clock = WorldClock(wall_ms=wall_ms(), world_ms=ends_ms, speed=0, until_ms=ends_ms)
    write_clock(path.with_name(CLOCK_FILE), clock)
    print_mapping("simulated history", {**asdict(written), "world": str(path)}, as_json)


@app.command()
def fit(
    data: Annotated[Path, typer.Option(help="Folder of KuaiRand's impressions, as Parquet.")],
    held_out: Annotated[
        float, typer.Option(min=0.05, max=0.9, help="Share of days held out, the last ones.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated responses.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Fit a response model to a real log, and compare its simulated responses with the held-out days.

    Example: recsys simulate fit --data ../shared/data/kuairand-pure-part --json
    """
    from infra.evaluation.reports.response_fit import ResponseFit, run

    finish(run(ResponseFit(data, held_out, seed)), as_json)


@app.command("second-world")
def second_world(
    ctx: typer.Context,
    python: Annotated[
        Path | None,
        typer.Option(help="Of the environment with RecoGym; default <home>/recogym/bin/python."),
    ] = None,
    products: Annotated[int, typer.Option(min=2, help="Number of products.")] = 100,
    history_users: Annotated[int, typer.Option(min=10, help="Users of the log to learn from.")] = 1_000,
    users: Annotated[int, typer.Option(min=10, help="Users of the test, in two arms.")] = 480,
    rate: Annotated[float, typer.Option(min=1, help="Mean lists per second.")] = 40.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the world, its users and the models.")] = 0,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Run the loop in a world that nobody of this project wrote: RecoGym's users over HTTP, in <home>/second-world.

    They come back to products that they know. Lists of one product are compared with what is viewed most and with the
    best possible. RecoGym has an environment of its own; without it, the command says how to install it.

    Example: recsys simulate second-world --json
    """
    from infra.second_world import SecondWorld, run

    refuse(ctx, quick, ["products", "history_users", "users", "rate"], "--quick has sizes of its own")
    path = python or Settings().home / "recogym" / "bin" / "python"
    if quick:
        finish(run(SecondWorld.quick(path, seed)), as_json)
    finish(run(SecondWorld(path, products, history_users, users=users, rate=rate, seed=seed)), as_json)
