"""`recsys bench`: one command per subsystem; each is a module of `infra.evaluation.benchmarks` with a config and `run`,
but for `autoscale`, which is a package of `infra.capacity`.

A command imports its module when it runs: one needs torch, the others must not wait for it.
"""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.options import refuse
from infra.terminal import JsonFlag, QuickFlag, finish
from streaming.settings import Engine

app = typer.Typer(no_args_is_help=True, help="Measure a part of the system against its goals.")

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]

# those without options of their own: the module's name is the command's
PLAIN = {
    "parity": (
        "ParityBench",
        "Stream, batch and brute force give the same bits; served = logged = recomputed.",
    ),
    "features": (
        "FeatureBench",
        "Features of one user and 500 items for a ranker, against a hash and a JSON document per item.",
    ),
    "batch": ("BatchBench", "The Spark job at 1x, 2x and 4x the events: time, CPU, memory."),
    "neighbours": (
        "NeighboursBench",
        "The item-to-item table of a million items: time, memory, and the share of the true nearest vectors.",
    ),
    "filters": (
        "FiltersBench",
        "What a filter costs, and the share of the true nearest eligible items that a filtered search finds.",
    ),
    "transport": (
        "TransportBench",
        "Rank 500 candidates in this process, and in another one over a Unix socket and over TCP.",
    ),
    "simulation": ("SimulationBench", "Cost of a simulated world of a million users and a million items."),
}


def _plain(name: str, config: str) -> Callable[..., None]:
    def command(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
        module = import_module(f"infra.evaluation.benchmarks.{name}")
        sizes = getattr(module, config)
        finish(module.run(sizes.quick(seed=seed) if quick else sizes(seed=seed)), as_json)

    return command


for _name, (_config, _help) in PLAIN.items():
    app.command(_name, help=f"{_help}\n\nExample: recsys bench {_name} --json")(_plain(_name, _config))


@app.command()
def stream(
    seed: Seed = 0,
    engine: Annotated[
        Engine, typer.Option(help="Of the worker; spark: on Apache Kafka, with goals of its own.")
    ] = Engine.WORKER,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """One feature worker: what it takes idle, its throughput, replay speed, and freshness at a steady rate.

    Example: recsys bench stream --json
    """
    from infra.evaluation.benchmarks.stream import StreamBench, run

    sizes = StreamBench.quick(seed) if quick else StreamBench(seed)
    finish(run(replace(sizes, engine=engine)), as_json)


@app.command()
def edge(
    seed: Seed = 0,
    simulated: Annotated[
        bool,
        typer.Option("--simulated", help="Only what faster lists are worth to simulated users: no browser."),
    ] = False,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Lists reranked in Chromium: time, agreement with the server, bytes, pages offline; and, simulated, the lift in
    clicks over a server's list that comes later.

    Example: recsys bench edge --json
    """
    if simulated:
        from infra.evaluation.benchmarks import edge_lift

        config = edge_lift.LiftConfig.quick() if quick else edge_lift.LiftConfig()
        finish(edge_lift.run(config, seed), as_json)
    from infra.evaluation.benchmarks.edge import EdgeBench, run

    finish(run(EdgeBench.quick(seed) if quick else EdgeBench(seed)), as_json)


@app.command()
def recall(
    ctx: typer.Context,
    seed: Seed = 0,
    quick: QuickFlag = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Search ten million vectors on a CUDA device.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write recall against speed to this PNG file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure the index: recall and speed against exact search, memory, updates during search; user tower.

    Example: recsys bench recall --plot var/recall.png --json
    """
    refuse(ctx, gpu, ["plot"], "--gpu measures points, not a curve")
    if gpu:
        from infra.evaluation.benchmarks import recall_gpu

        finish(
            recall_gpu.run(recall_gpu.GpuBench.quick(seed) if quick else recall_gpu.GpuBench(seed=seed)),
            as_json,
        )
    from infra.evaluation.benchmarks.recall import RecallBench, run

    config = RecallBench.quick(seed) if quick else RecallBench(seed=seed)
    finish(run(replace(config, plot=plot)), as_json)


class Compared(StrEnum):
    REFERENCE = "reference"


@app.command()
def serve(
    ctx: typer.Context,
    seed: Seed = 0,
    quick: QuickFlag = False,
    items: Annotated[int | None, typer.Option(min=1_000, help="Size of the catalogue.")] = None,
    compare: Annotated[
        Compared | None,
        typer.Option(help="reference: the Python path and the compiled one in turns, and their ratios."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of --compare: how often each is measured.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Write the latency curve to this PNG file.")] = None,
    requests: Annotated[
        int, typer.Option(min=0, help="Requests to answer with caches while memory is recorded.")
    ] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Measure the request path under open load: saturation, percentiles at half of it, stages against their floors.

    Example: recsys bench serve --plot var/serve.png --json
    """
    refuse(ctx, compare is not None, ["plot"], "--compare measures two paths; the plot is of one")
    refuse(ctx, compare is None, ["rounds"], "one path is measured once; add --compare reference")
    from infra.evaluation.benchmarks import serve_compared
    from infra.evaluation.benchmarks.serve import ServeBench, run

    config = ServeBench.quick(seed) if quick else ServeBench(seed)
    config = replace(config, plot=plot, requests=requests, items=items or config.items)
    if compare is not None:
        finish(serve_compared.run(config, serve_compared.REFERENCE, serve_compared.NATIVE, rounds), as_json)
    finish(run(config), as_json)


@app.command()
def autoscale(
    seed: Seed = 0,
    quick: QuickFlag = False,
    plot: Annotated[Path | None, typer.Option(help="Write pods and the trade-off to this PNG file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Simulate days with and without flash crowds: the scaling policy against the autoscalers that were there before.

    Queues are calibrated by `recsys bench serve` and `recsys bench stream` (infra/capacity/sizing.yaml).

    Example: recsys bench autoscale --plot var/autoscale.png --json
    """
    from infra.capacity.autoscale.bench import AutoscaleBench, run

    sizes = AutoscaleBench.quick(seed) if quick else AutoscaleBench(seed)
    finish(run(replace(sizes, plot=plot)), as_json)


@app.command("first-answer")
def first_answer(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of tables; default: four kinds in examples/.")
    ] = None,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Time `recsys quickstart` from the command to the first personal list, and each of its phases.

    `--quick` takes the first folder alone.

    Example: recsys bench first-answer --json
    """
    from infra.evaluation.benchmarks.first_answer import EXAMPLES, run

    chosen = folders or EXAMPLES
    finish(run(chosen[:1] if quick else chosen), as_json)


@app.command()
def caches(
    seed: Seed = 0,
    lake: Annotated[
        bool, typer.Option("--lake", help="Also in the order of the lake's impressions.")
    ] = False,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Misses of the caches' eviction (SIEVE), of S3-FIFO and of the optimum, against LRU at equal bytes.

    Example: recsys bench caches --lake --json
    """
    from infra.evaluation.benchmarks.caches import CacheBench, run
    from recsys.settings import Settings

    of = Settings().lake if lake else None
    finish(run(CacheBench.quick(of, seed) if quick else CacheBench(of, seed)), as_json)


@app.command()
def rank(
    seed: Seed = 0,
    lake: Annotated[
        bool, typer.Option("--lake", help="Use the lake's ladder, not the synthetic one.")
    ] = False,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Time 500 candidates through every variant of the ladder and the eager teacher, with the roofline.

    Build the ladder first, with `recsys train ladder`.

    Example: recsys bench rank --json
    """
    from infra.evaluation.benchmarks.rank import RankBench, run
    from recsys.settings import Settings
    from training.compression.configs import ladder_folder

    ladder = ladder_folder(Settings(), lake)
    finish(run(RankBench.quick(ladder, seed) if quick else RankBench(ladder, seed)), as_json)
