"""`recsys users`: what is known of one user, and forgetting them."""

from typing import Annotated

import typer

from infra.terminal import JsonFlag, print_mapping
from serving.settings import ServingSettings

app = typer.Typer(no_args_is_help=True, help="Users who ask to be forgotten.")


@app.callback()
def _group() -> None:
    """Keeps `users` a group while it has one command."""


@app.command()
def forget(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    as_json: JsonFlag = False,
) -> None:
    """Remove every state of a user from Redis, with the document of last night, and mark the lake.

    `recsys stream compact` removes the rows from the lake.

    Events of theirs that are still on their way count again; ask once more after the last of them.

    Example: recsys users forget 42
    """
    from infra.local.services import connected
    from recsys.features.definitions import FEATURES
    from recsys.lake.forget import mark_forgotten
    from recsys.simulation.clock import clock_of
    from recsys.store.base import StoreConfig
    from recsys.store.redis import RedisFeatureStore

    settings = connected(ServingSettings())
    store = RedisFeatureStore(
        settings.redis_url, FEATURES, StoreConfig(settings.partitions), settings.redis_namespace
    )
    try:
        had_state = store.forget_user(user)
    finally:
        store.close()
    mark = mark_forgotten(settings.lake, user, clock_of(settings.clock)())
    print_mapping(f"forgotten: {user}", {"had_state": had_state, "mark": str(mark)}, as_json)
