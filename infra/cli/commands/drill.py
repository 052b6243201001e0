"""`recsys drill`: fault-injection tests. Break parts of a working system, and count what is wrong afterwards."""

from typing import Annotated

import typer

from infra.terminal import JsonFlag, QuickFlag, finish

app = typer.Typer(
    no_args_is_help=True,
    help="Fault-injection tests: break parts of the system, count what is wrong afterwards.",
)

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@app.command()
def serve(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """Kill, freeze and slow Redis; kill and freeze the broker; kill a worker and an API process; fill the spool's disk;
    make the clock jump; overload; publish a broken bundle.

    Example: recsys drill serve --quick
    """
    from infra.evaluation.fault_injection.serve import ServeDrill, run

    finish(run(ServeDrill.quick(seed) if quick else ServeDrill(seed)), as_json)


@app.command()
def stream(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """Kill and freeze workers, kill Redis (AOF, then RDB), rebalance; then a control without our guards.

    Example: recsys drill stream --quick
    """
    from infra.evaluation.fault_injection.stream import StreamDrill, run

    finish(run(StreamDrill.quick(seed) if quick else StreamDrill(seed)), as_json)
