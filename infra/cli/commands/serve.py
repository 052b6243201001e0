"""`recsys serve`: the API."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.options import refuse
from infra.terminal import console
from recsys.contracts.errors import InvalidConfig
from serving.settings import Role, Scope, ServingSettings

app = typer.Typer()


@app.command()
def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port; 0: any free port.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Processes that share the port.")] = None,
    profile: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Settings file of `recsys tune serving`.")
    ] = None,
    role: Annotated[Role | None, typer.Option(help="api, or a process for recall or rank.")] = None,
    uds: Annotated[Path | None, typer.Option(help="Unix socket to listen on instead of a port.")] = None,
    new_key_name: Annotated[
        str | None, typer.Option("--new-key", help="Create an API key of this name and exit.")
    ] = None,
    scope: Annotated[list[Scope] | None, typer.Option(help="Scopes of the new key; default: read.")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="Days until the new key expires; default: never.")
    ] = None,
) -> None:
    """Serve requests with the published bundle until Ctrl-C; new bundles are loaded without a restart.

    Options win over RECSYS_HOST, RECSYS_PORT and RECSYS_WORKERS, and these over the profile. Redis and Kafka are
    those of RECSYS_REDIS_URL and RECSYS_KAFKA_BOOTSTRAP, else those of `recsys up`.

    Example: recsys serve --port 8000 --workers 2
    """
    is_key = new_key_name is not None
    refuse(ctx, is_key, ("host", "port", "workers", "role", "uds"), "--new-key adds a key and starts nothing")
    refuse(ctx, not is_key, ["scope", "days"], "it is of a new key; add --new-key NAME")
    refuse(ctx, uds is not None, ("host", "port"), "--uds listens on a socket instead; leave one of them")
    from infra.local.services import connected
    from serving.environment import of_several_processes

    given = {"host": host, "port": port, "workers": workers, "role": role, "uds": uds}
    settings = ServingSettings(_env_file=profile).model_copy(
        update={k: v for k, v in given.items() if v is not None}
    )
    if new_key_name is not None:
        _show_new_key(settings.api_keys, new_key_name, scope or [Scope.READ], days)
        return
    connect = connected(settings) if settings.role is not Role.RANK else settings  # needs neither
    with of_several_processes() if settings.workers > 1 else nullcontext():
        from serving.processes import run  # and with it libraries that read the environment

        run(connect, lambda url: console.print(f"recsys {settings.role}: [bold]{url}[/]  (Ctrl-C stops it)"))


def _show_new_key(path: Path | None, name: str, scopes: list[Scope], days: int | None) -> None:
    from serving.api.security import new_key

    if path is None:
        raise InvalidConfig(
            "set RECSYS_API_KEYS to the file that shall hold the keys, for example var/keys.json"
        )
    key = new_key(path, name, scopes, timedelta(days=days) if days else None)
    console.print(f"The only time that this key is shown (scopes: {', '.join(scopes)}):")
    typer.echo(key)
