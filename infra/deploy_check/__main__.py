"""`python -m infra.deploy_check`, as root; `infra/deploy/check.sh` installs what it needs."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from infra.deploy_check.check import DEPLOY, check, images
from infra.deploy_check.scenarios import SCENARIOS
from infra.terminal import console
from recsys.contracts.errors import RecsysError


def main(
    scenarios: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(SCENARIOS)}; default: all.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="A home with a published bundle; default: one is trained.")
    ] = None,
    deploy: Annotated[Path, typer.Option(help="The folder of the deployment files.")] = DEPLOY,
) -> None:
    """Run the containers of the deployment files on this machine. Exits with 1 if one does not run as it should."""
    try:
        made = images(deploy)
        with tempfile.TemporaryDirectory() as folder:
            home = home or _trained(Path(folder))
            faults = check(
                scenarios or list(SCENARIOS),
                home,
                made,
                lambda line: console.print(line, markup=False),
                deploy,
            )
    except RecsysError as error:
        console.print(f"error: {error}", markup=False)
        raise typer.Exit(2) from None
    for fault in faults:
        console.print(f"✗ {fault}", markup=False)
    if faults:
        raise typer.Exit(1)
    console.print("no faults")


def _trained(home: Path) -> Path:
    """A small bundle, by the same training as any."""
    import pyarrow as pa

    from infra.notebook.recommender import Recommender

    pairs = [(user, (user * 7 + step * 3) % 40, step) for user in range(60) for step in range(10)]
    log = pa.table(
        {
            "user_id": [f"u{user}" for user, _, _ in pairs],
            "item_id": [f"i{item}" for _, item, _ in pairs],
            "event_type": ["click"] * len(pairs),
            "timestamp": [1_700_000_000 + 60 * step + user for user, _, step in pairs],
        }
    )
    Recommender.fit(log, progress=False, epochs=1, rank_epochs=1, shift_to_now=True).save(home)
    return home


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
