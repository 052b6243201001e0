"""`recsys bench`: one command per figure; each is a module of `infra.evaluation.benchmarks` with a config and `run`.

A command imports its module when it runs: one needs torch, the other must not wait for it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.options import refuse
from infra.terminal import JsonFlag, QuickFlag, finish

app = typer.Typer(no_args_is_help=True, help="Measure a part of the system against its goals.")

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@app.command()
def stream(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """Events a second of one feature worker, replay speed, and freshness at a steady rate.

    Example: recsys bench stream --json
    """
    from infra.evaluation.benchmarks.stream import StreamBench, run

    finish(run(StreamBench.quick(seed) if quick else StreamBench(seed)), as_json)


@app.command()
def recall(
    ctx: typer.Context,
    seed: Seed = 0,
    quick: QuickFlag = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Ten million vectors on a CUDA device instead.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write recall against speed to this PNG file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """The index: recall and speed against exact search, memory, changes while it is searched; tower and search.

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


@app.command()
def serve(
    seed: Seed = 0,
    quick: QuickFlag = False,
    plot: Annotated[Path | None, typer.Option(help="Write the latency curve to this PNG file.")] = None,
    requests: Annotated[
        int, typer.Option(min=0, help="Answers with caches, at least, while memory is watched.")
    ] = 0,
    as_json: JsonFlag = False,
) -> None:
    """The whole request path under an open load: saturation, percentiles at half of it, stages against their floors.

    Example: recsys bench serve --plot var/serve.png --json
    """
    from infra.evaluation.benchmarks.serve import ServeBench, run

    config = ServeBench.quick(seed) if quick else ServeBench(seed)
    finish(run(replace(config, plot=plot, requests=requests)), as_json)


@app.command()
def rank(
    seed: Seed = 0,
    lake: Annotated[
        bool, typer.Option("--lake", help="The lake's ladder instead of the synthetic one.")
    ] = False,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """500 candidates through every variant of the ladder and the eager teacher, in one run; roofline.

    Build the ladder first, with `recsys train ladder`.

    Example: recsys bench rank --json
    """
    from infra.evaluation.benchmarks.rank import RankBench, run
    from recsys.settings import Settings
    from training.compression.configs import ladder_folder

    ladder = ladder_folder(Settings(), lake)
    finish(run(RankBench.quick(ladder, seed) if quick else RankBench(ladder, seed)), as_json)


@app.command()
def parity(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """Stream, batch and brute force give the same bits; served = logged = recomputed.

    Example: recsys bench parity --json
    """
    from infra.evaluation.benchmarks.parity import ParityBench, run

    finish(run(ParityBench.quick(seed) if quick else ParityBench(seed=seed)), as_json)


@app.command()
def features(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """One user's and 500 items' features for a ranker, against a hash and a JSON document an item.

    Example: recsys bench features --json
    """
    from infra.evaluation.benchmarks.features import FeatureBench, run

    finish(run(FeatureBench.quick(seed) if quick else FeatureBench(seed=seed)), as_json)


@app.command()
def batch(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """The Spark job at 1x, 2x and 4x the events: time, CPU, memory.

    Example: recsys bench batch --json
    """
    from infra.evaluation.benchmarks.batch import BatchBench, run

    finish(run(BatchBench.quick(seed) if quick else BatchBench(seed=seed)), as_json)


@app.command()
def transport(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """Rank 500 candidates in this process, and in another one over a Unix socket and over TCP.

    Example: recsys bench transport --json
    """
    from infra.evaluation.benchmarks.transport import TransportBench, run

    finish(run(TransportBench.quick(seed) if quick else TransportBench(seed)), as_json)


@app.command()
def simulation(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """What a simulated world of a million users and a million items takes.

    Example: recsys bench simulation --json
    """
    from infra.evaluation.benchmarks.simulation import SimulationBench, run

    finish(run(SimulationBench.quick(seed) if quick else SimulationBench(seed)), as_json)
