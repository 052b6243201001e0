"""`recsys features`: build examples with Spark, list the definitions, say what a change of them invalidates."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.commands.features_select import select
from infra.cli.logs import job_log
from infra.cli.options import refuse
from infra.terminal import JsonFlag, console, print_json, print_mapping, print_table
from recsys.bundle import current_version, open_bundle
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import Topic
from recsys.operator_files import read_json
from recsys.settings import Settings
from recsys.store.base import StoreConfig
from serving.settings import ServingSettings
from streaming.settings import StreamSettings

if TYPE_CHECKING:
    from recsys.contracts.attribution import Attribution
    from recsys.features.describe import Change
    from recsys.spark_session import Session
    from recsys.store.base import FeatureStore, StateDefinition

app = typer.Typer(no_args_is_help=True, help="Training examples and the feature definitions.")
app.command()(select)

Master = Annotated[
    str | None,
    typer.Option(help="Spark master: local[2], yarn, k8s://…, spark://…. [default: RECSYS_SPARK_MASTER]"),
]
Memory = Annotated[str, typer.Option(help="Memory of the Spark driver, and of each executor.")]


@app.command("build")
def build_(
    first: Annotated[str, typer.Option("--from", help="First day, YYYY-MM-DD.")] = "",
    last: Annotated[str, typer.Option("--to", help="Last day, YYYY-MM-DD.")] = "",
    lake: Annotated[str, typer.Option(help="Lake, also hdfs:// or s3a://; default: in home.")] = "",
    output: Annotated[str, typer.Option(help="Output folder; default: <home>/features.")] = "",
    newest: Annotated[
        int, typer.Option(min=0, help="Only the newest days, until they have this many events; 0: all.")
    ] = 0,
    attribution: Annotated[
        str,
        typer.Option(help="auto, request or window:H (hours); default: as a local lake's mapping says."),
    ] = "",
    negatives: Annotated[int, typer.Option(min=0, help="Negatives per positive without impression.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the negatives.")] = 0,
    buckets: Annotated[
        int,
        typer.Option(
            min=0, help="Number of key buckets; each core holds one in memory; 0: by the log's size."
        ),
    ] = 0,
    rebuild: Annotated[bool, typer.Option(help="Rebuild days that are up to date, too.")] = False,
    master: Master = None,
    memory: Memory = "2g",
    conf: Annotated[list[str] | None, typer.Option(help="Spark setting KEY=VALUE; repeatable.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Build labelled examples with the features at each instant, and sequences, from the lake.

    Days that are up to date are skipped, others are replaced as a whole. Sequences always cover the whole lake.

    Example: recsys features build --from 2026-04-25 --to 2026-05-08
    """
    from training.features.feature_job import FeatureJob
    from training.features.job import build

    settings = Settings()
    job = FeatureJob(
        lake=lake or settings.lake.absolute().as_posix(),
        output=output or settings.features.absolute().as_posix(),
        first_day=first,
        last_day=last,
        newest=newest,
        attribution=_attribution(lake or settings.lake.as_posix(), attribution),
        negatives=negatives,
        seed=seed,
        buckets=buckets,
        rebuild=rebuild,
        forgotten=_forgotten(lake or settings.lake.as_posix()),
        trust=settings.trust,
    )
    with console.status("building"), _spark(settings, master, memory, conf or ()) as spark:
        report = build(spark, job, lambda line: console.print(line, highlight=False))
    content: dict[str, Any] = asdict(report) | {"days": len(report.days), "skipped": len(report.skipped)}
    content["left_out"] = report.events_left_out
    print_mapping("features", content, as_json)


def _forgotten(lake: str) -> Mapping[str, int]:
    """Marks are written where the API runs; a lake that was pushed has them in its snapshot (`lake_tables`)."""
    from recsys.lake.forget import forgotten_users

    return {} if "://" in lake else forgotten_users(Path(lake))


def _attribution(lake: str, chosen: str) -> "Attribution":
    """As chosen; else as the lake's imports say, where they can be read here."""
    from recsys.datasets.lake_attribution import lake_attribution, parse_attribution

    return parse_attribution(chosen or "auto") if chosen or "://" in lake else lake_attribution(Path(lake))


@contextmanager
def _spark(
    settings: Settings, master: str | None, memory: str, conf: Sequence[str] = ()
) -> Iterator["Session"]:
    """A Spark session whose output goes to <home>/logs/spark.log."""
    from recsys.spark_session import spark_session

    pairs = [text.partition("=") for text in conf]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise InvalidConfig(f"--conf {wrong[0]}: write it as KEY=VALUE")
    with job_log(settings.home / "logs" / "spark.log"):
        settings_of_spark = [(key, value) for key, _, value in pairs]
        spark = spark_session(master or settings.spark_master, memory, settings_of_spark)
        try:
            yield spark
        finally:
            spark.stop()


@app.command("backfill")
def backfill_(
    namespace: Annotated[str, typer.Option(help="An empty namespace; never the live one.")],
    master: Master = None,
    memory: Memory = "2g",
    as_json: JsonFlag = False,
) -> None:
    """Load the state of everything in the lake into another namespace of Redis, next to the live one.

    For new feature definitions, or a Redis that lost its data. Stop the archiver first; workers and the API may run.
    Restart them with RECSYS_REDIS_NAMESPACE afterwards: workers continue at the lake's last offsets.

    Example: recsys features backfill --namespace recsys-2
    """
    from infra.local.services import connected
    from recsys.features.definitions import FEATURES
    from recsys.lake.merges import read_merges
    from recsys.store.backfill import Covered
    from recsys.store.redis import RedisFeatureStore
    from streaming.lake_writer.commit import Place, exclusive, read_checkpoint
    from training.features.feature_job import FeatureJob
    from training.features.state_job import load_state

    settings = connected(StreamSettings())
    dedupe_ms = settings.time_rules.late_ms
    config = StoreConfig(settings.partitions, dedupe_ms=dedupe_ms)

    def covered(name: str, place: Place) -> Covered:
        topic, _, partition = name.rpartition("/")
        return Covered(Topic(topic), int(partition), place.log_id, place.offset, place.watermark_ms)

    def open_store(definition: "StateDefinition") -> "FeatureStore":
        return RedisFeatureStore(settings.redis_url.get_secret_value(), definition, config, namespace)

    lake = settings.lake.absolute().as_posix()
    job = FeatureJob(lake=lake, output="", forgotten=_forgotten(lake))
    status = console.status("reading the lake")
    with exclusive(settings.lake), status, _spark(settings, master, memory) as spark:
        read = [
            covered(name, place)
            for name, place in sorted(read_checkpoint(settings.lake).items())
            # the worker rereads the changes of items and users
            if not name.startswith((f"{Topic.ITEMS}/", f"{Topic.USERS}/"))
        ]
        loaded = load_state(spark, job, read, open_store, settings.partitions, dedupe_ms)
    with closing(open_store(FEATURES)) as store:
        store.merge_users(read_merges(settings.lake))
    print_mapping(f"backfilled {namespace}", asdict(loaded), as_json)
    console.print(f"next: restart workers and the API with RECSYS_REDIS_NAMESPACE={namespace}")


@app.command("nightly")
def nightly_(as_json: JsonFlag = False) -> None:
    """Write every item's and user's features as JSON documents, for an API with RECSYS_FEATURE_SOURCE=documents.

    They hold the store's state for the items of the current bundle, at the time of the API's clock (RECSYS_CLOCK). A
    document that is not rewritten expires after three nights; those of other feature definitions are removed at once.
    For `cron`, and for the case study's *before*.

    Example: recsys features nightly
    """
    from infra.cli.stores import feature_store
    from infra.local.services import connected
    from recsys.features.definitions import FEATURES
    from recsys.items.item_table import read_items
    from recsys.signatures import read_public_keys
    from recsys.simulation.clock import clock_of
    from recsys.store.nightly import NightlyStore
    from recsys.store.nightly_job import write_nightly

    settings = connected(ServingSettings())
    version = current_version(settings.bundles)
    if version is None:
        raise InvalidData(f"{settings.bundles}: no bundle is published; publish one with `recsys train all`")
    bundle = open_bundle(settings.bundles / version, read_public_keys(settings.bundle_keys))
    items = read_items(bundle.file("items.parquet"))
    url = settings.redis_url.get_secret_value()
    with (
        closing(feature_store(settings)) as store,
        closing(NightlyStore(url, FEATURES, settings.redis_namespace)) as nightly,
    ):
        written = write_nightly(store, nightly, items, clock_of(settings.clock)())
    print_mapping("nightly documents", asdict(written), as_json)


@app.command("list")
def list_(
    ctx: typer.Context,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of docs/features.md.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """List every feature. `--json` prints the definitions, which `diff` compares.

    Example: recsys features list --json > before.json
    """
    refuse(ctx, as_json, ["as_markdown"], "choose --json or --markdown")
    from recsys.features.definitions import FEATURES
    from recsys.features.describe import listing, markdown

    if as_json:
        print_json(FEATURES.describe())
    elif as_markdown:
        typer.echo(markdown(FEATURES), nl=False)
    else:
        rows = [(r.feature, r.entity, r.kind, r.reads, len(r.columns)) for r in listing(FEATURES)]
        title = f"{len(rows)} features, {FEATURES.dimension} columns, fingerprint {FEATURES.fingerprint}"
        print_table(title, ("feature", "of", "kind", "reads", "columns"), rows)


@app.command()
def diff(
    ctx: typer.Context,
    saved: Annotated[
        Path | None, typer.Argument(help="Saved `recsys features list --json`; default: of the examples.")
    ] = None,
    bundle: Annotated[bool, typer.Option("--bundle", help="Compare with the current bundle.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List what the current definitions make invalid. Exit code 1 if anything is.

    Example: recsys features diff before.json
    """
    refuse(ctx, bundle, ["saved"], "--bundle compares with the bundle; leave one of them")
    from recsys.features.definitions import FEATURES
    from recsys.features.describe import differences

    changes = _bundle_changes() if bundle else differences(_definitions(saved), FEATURES.describe())
    if as_json:
        print_json([asdict(change) for change in changes])
    elif changes:
        print_table("changes", ("what", "name", "effect"), [(c.what, c.name, c.effect) for c in changes])
    else:
        console.print("no change: examples, models and state are valid")
    raise typer.Exit(1 if changes else 0)


@app.command()
def size(
    users: Annotated[int, typer.Option(min=1, help="Users with state.")],
    items: Annotated[int, typer.Option(min=1, help="Items with state.")],
    events_per_user: Annotated[int, typer.Option(min=1, help="Mean over `--days`, with impressions.")] = 100,
    days: Annotated[int, typer.Option(min=1, help="Days that these events cover.")] = 30,
    as_json: JsonFlag = False,
) -> None:
    """Predict the Redis memory of the online store, from a sample stored in a private Redis.

    Example: recsys features size --users 1000000 --items 100000
    """
    from infra.capacity.size import Population, predict

    population = Population(users, items, events_per_user, days)
    found = predict(population, StoreConfig(Settings().partitions))
    rows = {f"{name}_bytes": round(value) for name, value in asdict(found).items()}
    print_mapping("predicted Redis memory", rows | {"total_bytes": round(found.total)}, as_json)


def _definitions(saved: Path | None) -> dict[str, Any]:
    from recsys.features.describe import DEFINITIONS

    path = saved or Settings().features / "examples" / DEFINITIONS
    try:
        content = read_json(path, dict[str, Any], InvalidData)
    except FileNotFoundError:
        raise InvalidData(f"{path}: no definitions; save some with `recsys features list --json`") from None
    except InvalidData as error:
        raise InvalidData(f"not definitions from `recsys features list --json`: {error}") from error
    if not content.keys() >= {"features", "state", "histories"}:
        raise InvalidData(f"{path}: not definitions from `recsys features list --json`")
    return content


def _bundle_changes() -> list["Change"]:
    """Compare with the names and the fingerprint, which is all that a bundle holds."""
    from recsys.features.definitions import FEATURES
    from recsys.features.describe import Change, Effect

    bundles = Settings().bundles
    version = current_version(bundles)
    if version is None:
        raise InvalidData(f"{bundles}: no bundle is published; publish one with `recsys train all`")
    manifest = open_bundle(bundles / version).manifest
    if manifest.feature_fingerprint == FEATURES.fingerprint:
        return []
    old, new = set(manifest.feature_names), set(FEATURES.names)
    changes = [Change("added", name, Effect.MODELS) for name in FEATURES.names if name not in old]
    changes += [Change("removed", name, Effect.MODELS) for name in manifest.feature_names if name not in new]
    fallback = Change("changed", "a definition, a window or the order", Effect.MODELS)
    return changes or [fallback]
