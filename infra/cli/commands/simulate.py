"""`recsys world`: a seeded ground truth to try the system in."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from infra.terminal import JsonFlag, finish, print_mapping
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import MS_PER_DAY
from recsys.datasets.catalogue import items_path
from recsys.settings import Settings
from recsys.simulation.clock import CLOCK_FILE, WorldClock, wall_ms, write_clock
from recsys.simulation.history import PastConfig, write_past
from recsys.simulation.world import WorldConfig, create_world

app = typer.Typer(no_args_is_help=True, help="A seeded world of users and items to try the system in.")


@app.command()
def past(
    users: Annotated[int, typer.Option(min=1, help="People.")] = 2_000,
    items: Annotated[int, typer.Option(min=1, help="Items when the world begins.")] = 2_000,
    days: Annotated[int, typer.Option(min=1, help="Days before today that are in the log.")] = 7,
    k: Annotated[int, typer.Option(min=1, help="Items in a list of the shop before.")] = 10,
    ahead: Annotated[
        int, typer.Option(min=0, help="Days between the log and today: so many can be played.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Another world.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write the days before the recommender into the lake, and the world's configuration to <home>/world.json.

    The log is that of a simple shop: best sellers and items drawn at random. Then build features, train and serve as
    with any data set, and let the same world's users visit: `recsys stream traffic --world var/world.json`.

    Example: recsys world past --users 2000 --items 2000 --days 7
    """
    settings = Settings()
    path = settings.home / "world.json"  # beside the lake, never in it: it is the truth
    if items_path(settings.lake).exists():
        raise InvalidConfig(
            f"{settings.lake} has a catalogue already, which the world's would replace: choose another RECSYS_HOME,"
            f" or move {settings.lake} away"
        )
    today_ms = wall_ms() // MS_PER_DAY * MS_PER_DAY
    start_ms = today_ms - (days + ahead) * MS_PER_DAY
    config = WorldConfig(seed=seed, users=users, items=items, days=days + 30, start_ms=start_ms)
    written = write_past(create_world(config), settings.lake, PastConfig(days=days, k=k))
    path.write_text(config.model_dump_json(indent=1), encoding="utf-8")
    ends_ms = start_ms + days * MS_PER_DAY
    clock = WorldClock(wall_ms=wall_ms(), world_ms=ends_ms, speed=0, until_ms=ends_ms)
    write_clock(path.with_name(CLOCK_FILE), clock)
    print_mapping("world", {**asdict(written), "world": str(path)}, as_json)


@app.command()
def fit(
    data: Annotated[
        Path, typer.Option(help="Folder with Parquet files of impressions in KuaiRand's columns.")
    ],
    held_out: Annotated[
        float,
        typer.Option(min=0.05, max=0.9, help="Share of the days, the last ones, that the fit does not see."),
    ] = 0.25,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated answers.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Fit a response model to a real log, and say how well it repeats days that it has not seen.

    Example: recsys world fit --data ../shared/data/kuairand-pure-part --json
    """
    from infra.evaluation.reports.response_fit import ResponseFit, run

    finish(run(ResponseFit(data, held_out, seed)), as_json)
