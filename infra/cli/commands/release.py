"""`recsys release`: bring a bundle to the users step by step, look at that, and decide by hand."""

import getpass
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.signals import stop_event
from infra.terminal import JsonFlag, console, print_json, print_mapping, print_table
from recsys.bundle import current_version
from recsys.contracts.errors import InvalidConfig
from recsys.experiments import release_file
from recsys.experiments.release import Abort, Event, Promote, Release, ReleasePlan, Stage, decide, exposure
from recsys.settings import Settings
from recsys.signatures import read_public_keys

app = typer.Typer(no_args_is_help=True, help="Release bundles: gate, shadow, canary, promotion or rollback.")

DEFAULT_API = "http://127.0.0.1:8000"
Apis = Annotated[
    list[str] | None,
    typer.Option("--api", help=f"Address of an API; repeat it for each host. [default: {DEFAULT_API}]"),
]
Key = Annotated[str, typer.Option(envvar="API_KEY", help="API key, when the API asks for one.")]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="YAML file of the rules (docs/release.md); default: built in.")
]


@app.command()
def run(
    version: Annotated[str, typer.Argument(help="Candidate; default: the release that runs or waits.")] = "",
    api: Apis = None,
    key: Key = "",
    plan: PlanFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Release a bundle until it is promoted or rolled back, or Ctrl-C; the next run continues where this one stopped.

    Where `recsys autopilot` runs, it is proposed to that, and the command returns. Exits with 1 after a rollback.

    Example: recsys release run 20260101-120000
    """
    from infra.release.autopilot import AlreadyRuns, alone
    from infra.release.autopilot import run as run_steps
    from infra.release.controller import offer
    from infra.release.setup import live_controller

    settings = Settings()
    if version:
        offer(settings.bundles, version, read_public_keys(settings.bundle_keys))
    try:
        with (
            alone(settings.bundles),
            live_controller(settings, api or [DEFAULT_API], key, plan) as controller,
        ):
            _require_one(settings)
            run_steps(settings.bundles, controller, stop_event(), until_ended=True)
    except AlreadyRuns:
        console.print("the release process that runs here takes it; `recsys release status` follows it")
    found = _state(settings)
    _print(found, as_json)
    raise typer.Exit(1 if found.get("stage") == Stage.ROLLED_BACK else 0)


@app.command()
def status(as_json: JsonFlag = False) -> None:
    """Show the latest release: its stage, the users who see it, the gate's checks and the guardrails.

    Example: recsys release status --json
    """
    _print(_state(Settings()), as_json)


@app.command()
def promote(as_json: JsonFlag = False) -> None:
    """Publish the candidate for all users now, whatever is left of shadow and canary. It must have passed the gate.

    Example: recsys release promote
    """
    settings = Settings()
    release = _decide(settings, Promote(_now_ms(), getpass.getuser()))
    if release.stage is not Stage.PROMOTED:
        raise InvalidConfig(
            f"{release.version} is {release.stage}; only a release that passed the offline gate and has not ended is"
            " promoted. `recsys bundle publish VERSION` publishes without a release"
        )
    _print(_state(settings), as_json)


@app.command()
def abort(
    reason: Annotated[str, typer.Option(help="For the audit log.")] = "by hand",
    as_json: JsonFlag = False,
) -> None:
    """Roll the release back now: within seconds no user sees the candidate. After a promotion this does nothing.

    Example: recsys release abort --reason "complaints"
    """
    settings = Settings()
    release = _decide(settings, Abort(_now_ms(), f"{reason} ({getpass.getuser()})"))
    if release.stage is Stage.PROMOTED:
        raise InvalidConfig(
            f"{release.version} is promoted; `recsys bundle publish {release.serving}` returns to the bundle before it"
        )
    _print(_state(settings), as_json)


@app.command()
def history(
    last: Annotated[int, typer.Option(min=1, help="Number of lines.")] = 30, as_json: JsonFlag = False
) -> None:
    """Print the audit log: each stage of each release, when it began and why.

    Example: recsys release history --last 10
    """
    lines = release_file.history(Settings().bundles)[-last:]
    if as_json:
        print_json(lines)
        return
    columns = ("at", "version", "stage", "users", "reason")
    rows = [[line.get(name, "") for name in columns] for line in lines]
    print_table("releases", columns, rows)


def _decide(settings: Settings, event: Event) -> Release:
    from infra.release.controller import change

    keys = partial(read_public_keys, settings.bundle_keys)
    return change(settings.bundles, lambda now: decide(now, event, ReleasePlan()), keys)


def _require_one(settings: Settings) -> None:
    now = release_file.read_release(settings.bundles)
    if release_file.waiting(settings.bundles) is None and (now is None or now.ended):
        raise InvalidConfig("no release runs and none waits; name a version (`recsys bundle list`)")


def _state(settings: Settings) -> dict[str, Any]:
    """What `status` prints; without a release only what serves and what waits."""
    release = release_file.read_release(settings.bundles)
    found: dict[str, Any] = {
        "published": current_version(settings.bundles),
        "waiting": release_file.waiting(settings.bundles),
    }
    if release is None:
        return found
    of_files = {"number", "settled"}
    content = {name: value for name, value in asdict(release).items() if name not in of_files}
    return found | content | {"share": exposure(release.stage)}


def _print(found: dict[str, Any], as_json: bool) -> None:
    if not as_json and "checks" in found:
        failed = [check["name"] for check in found["checks"] if check["problem"]]
        found["checks"] = f"{len(found['checks'])}, failed: {', '.join(failed) or 'none'}"
        found["p"] = ", ".join(f"{name} {p:.3g}" for name, p in found["p"].items())
    print_mapping("release", found, as_json)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
