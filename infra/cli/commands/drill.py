"""`recsys drill`: fault-injection tests. Break parts of a working system, and count what is wrong afterwards."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from infra.cli.options import refuse
from infra.evaluation.fault_injection.database import Database
from infra.local.redis_replicas import Failover
from infra.terminal import JsonFlag, QuickFlag, console, finish, print_json, print_table
from streaming.settings import Engine, RelayOrder

if TYPE_CHECKING:
    from infra.evaluation.fault_injection.hostile.attacks import Attack

app = typer.Typer(
    no_args_is_help=True,
    help="Fault-injection tests: break parts of the system, count what is wrong afterwards.",
)

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@app.command()
def serve(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """Kill, freeze and slow Redis; kill and freeze the broker; kill a worker and an API process; fill the spool's disk;
    make the clock jump; overload; publish a broken bundle. With RECSYS_LOCAL_KAFKA=apache, the broker is Apache Kafka,
    and accepted events must survive its death, too.

    Example: recsys drill serve --quick
    """
    from infra.evaluation.fault_injection.serve import ServeDrill, run

    finish(run(ServeDrill.quick(seed) if quick else ServeDrill(seed)), as_json)


@app.command()
def stream(
    seed: Seed = 0,
    engine: Annotated[
        Engine, typer.Option(help="Of the workers; spark: on Apache Kafka, whatever RECSYS_LOCAL_KAFKA says.")
    ] = Engine.WORKER,
    failover: Annotated[
        Failover | None,
        typer.Option(
            help="Redis servers that fail over, and lose what was not replicated; default: one server."
        ),
    ] = None,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Kill and freeze workers, kill Redis (AOF, then RDB), rebalance; then a control without our guards. With
    RECSYS_LOCAL_KAFKA=apache, Apache Kafka is the broker, and killed (not under Spark).

    Example: recsys drill stream --quick
    """
    from infra.evaluation.fault_injection.stream import StreamDrill, run

    size = StreamDrill.quick if quick else StreamDrill
    finish(run(size(seed, engine=engine, failover=failover)), as_json)


@app.command()
def db(
    ctx: typer.Context,
    seed: Seed = 0,
    database: Annotated[
        Database, typer.Option(help="The server that is started and killed.")
    ] = Database.POSTGRESQL,
    relay: Annotated[
        RelayOrder, typer.Option(help="How the relays read the outbox; slot: PostgreSQL only.")
    ] = RelayOrder.OUTBOX,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Kill the catalogue database, its relays, the broker and Redis while items are written; then a control that polls
    for "everything after the last number". With RECSYS_LOCAL_KAFKA=apache, the broker is Apache Kafka.

    Example: recsys drill db --quick
    """
    from infra.evaluation.fault_injection.database.drill import DatabaseDrill, run

    refuse(ctx, database is not Database.POSTGRESQL, ["relay"], "only PostgreSQL has slots; leave it out")
    size = DatabaseDrill.quick if quick else DatabaseDrill
    finish(run(size(seed, database, relay)), as_json)


@app.command()
def release(seed: Seed = 0, quick: QuickFlag = False, as_json: JsonFlag = False) -> None:
    """Release eight bad bundles to simulated users, harmless and better ones, and kill the controller at each step.

    Example: recsys drill release --quick
    """
    from infra.evaluation.fault_injection.release.drill import ReleaseDrill, run

    finish(run(ReleaseDrill.quick(seed) if quick else ReleaseDrill(seed)), as_json)


@app.command()
def poison(
    ctx: typer.Context,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of shops, one per seed.")] = 3,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Fake users push items in a simulated shop, against each defence and none; a burst goes through real servers.

    Example: recsys drill poison --quick
    """
    refuse(ctx, quick, ["seeds"], "--quick has one small shop; leave it, or --quick")
    from infra.evaluation.fault_injection.poison.drill import PoisonDrill, run

    finish(run(PoisonDrill.quick(seed) if quick else PoisonDrill(seed, seeds)), as_json)


@app.command()
def hostile(
    only: Annotated[str, typer.Option(help="Only attacks whose area or description contains this.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Attack the parts as foreign producers, broken disks and hostile clients do; each row must hold.

    The column `dc08ecb` is what an earlier version did, recorded when each fault was found.

    Example: recsys drill hostile --only security
    """
    from infra.evaluation.fault_injection.hostile import ALL

    chosen = [attack for attack in ALL if only.lower() in f"{attack.area} {attack.what}".lower()]
    if not chosen:
        raise typer.BadParameter(f"no attack contains {only!r}; leave --only out for all {len(ALL)}")
    _run(chosen, "drill hostile", as_json)


@app.command("import")
def import_(seed: Seed = 0, as_json: JsonFlag = False) -> None:
    """Damage the files of every loader and import them; kill imports; import over other sources and the API's changes.

    Each row must hold: rows read = rows kept + rows rejected, and nothing older is lost. The column `dc08ecb` is what
    an earlier version did with the same files.

    Example: recsys drill import --json
    """
    from infra.evaluation.fault_injection.imports import attacks

    _run(attacks(seed), "drill import", as_json, seed)


def _run(attacks: Sequence["Attack"], command: str, as_json: bool, seed: int = 0) -> NoReturn:
    """Run the attacks, print a row of each, and exit: 0 when all hold, else 1."""
    from infra.evaluation.fault_injection.hostile.attacks import report, run_all, summary

    outcomes = []
    for outcome in run_all(attacks):
        console.print(f"{'holds ' if outcome.holds else 'BROKEN'} {outcome.what} ({outcome.seconds:.1f} s)")
        outcomes.append(outcome)
    result = summary(outcomes, command, seed)
    if as_json:
        print_json(report(outcomes, command, seed))
        raise typer.Exit(0 if result.met else 1)
    rows = [(each.area, each.what, each.before, each.now, "yes" if each.holds else "NO") for each in outcomes]
    print_table(command, ("area", "attack", "dc08ecb", "now", "holds"), rows)
    finish(result, as_json=False)
