"""`recsys autopilot`: the one process that releases bundles."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.commands.release import DEFAULT_API, Apis, Key, PlanFile
from infra.cli.options import refuse
from infra.signals import stop_event
from infra.terminal import console
from recsys.settings import Settings

app = typer.Typer()


@app.command()
def autopilot(
    ctx: typer.Context,
    api: Apis = None,
    key: Key = "",
    plan: PlanFile = None,
    train: Annotated[
        bool, typer.Option("--train", help="Also build features and train, when a trigger asks for it.")
    ] = False,
    triggers: Annotated[
        Path | None, typer.Option(help="YAML file of the triggers (docs/release.md); default: built in.")
    ] = None,
) -> None:
    """Release what is proposed, one bundle after the other, until Ctrl-C. From now on `recsys train nightly` and
    `recsys train all` propose here instead of publishing, after the first bundle.

    Killed at any point, it continues where it was. One per folder of bundles.

    Example: recsys autopilot --train
    """
    refuse(ctx, not train, ["triggers"], "they ask for trainings; add --train")
    from infra.release.autopilot import Trainer, alone, run
    from infra.release.setup import live_controller
    from infra.release.triggers import TriggerPlan
    from recsys.contracts.errors import InvalidConfig
    from recsys.experiments.release_file import use
    from recsys.operator_files import read_yaml

    settings, apis = Settings(), api or [DEFAULT_API]
    rules = read_yaml(triggers, TriggerPlan, InvalidConfig) if triggers else TriggerPlan()
    with (
        alone(settings.bundles),
        live_controller(settings, apis, key, plan) as controller,
        closing(Trainer(settings, rules, apis[0], key)) as trainer,
    ):
        use(settings.bundles)
        console.print(f"releasing what is proposed in {settings.bundles}; Ctrl-C stops")
        run(settings.bundles, controller, stop_event(), trainer.step if train else lambda: None)
