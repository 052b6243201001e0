"""`recsys bench`: one command a figure; each is a module of `infra.bench` with a configuration and `run`.

A command imports its module when it runs: one needs torch, the other must not wait for it.
"""

from typing import Annotated

import typer

from infra.console import JsonFlag, QuickFlag, finish

app = typer.Typer(no_args_is_help=True, help="Measure a part of the system against its goals.")

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@app.command()
def stream(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """Events a second of one feature worker, replay speed, and freshness at a steady rate.

    Example: recsys bench stream --json
    """
    from infra.bench.stream import StreamBench, run

    finish(run(StreamBench.quick(seed) if quick else StreamBench(seed)), as_json)


@app.command()
def recall(
    seed: Seed = 0,
    quick: QuickFlag = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Ten million vectors on a CUDA device instead.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """The index: recall and speed against exact search, memory, changes while it is searched; tower and search.

    Example: recsys bench recall --quick
    """
    if gpu:
        from infra.bench import recall_gpu

        finish(
            recall_gpu.run(recall_gpu.GpuBench.quick(seed) if quick else recall_gpu.GpuBench(seed=seed)),
            as_json,
        )
    from infra.bench.recall import RecallBench, run

    finish(run(RecallBench.quick(seed) if quick else RecallBench(seed=seed)), as_json)
