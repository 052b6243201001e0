"""`recsys users`: forget a user."""

from contextlib import closing
from typing import Annotated

import typer

from infra.terminal import JsonFlag, print_mapping
from serving.settings import ServingSettings

app = typer.Typer(no_args_is_help=True, help="Forget users.")


@app.callback()
def _group() -> None:
    """Keeps `users` a group while it has one command."""


@app.command()
def forget(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    as_json: JsonFlag = False,
) -> None:
    """Delete a user's state and its nightly snapshot from Redis, the user's row from the database where
    RECSYS_DATABASE_URL names one, and mark the user as forgotten in log and lake.

    `recsys stream compact` then removes the user's rows from the lake.

    Events of the user that are still under way, and stamped before now or up to RECSYS_FUTURE_MINUTES ahead, are
    dropped. While Kafka, or that database, is away nothing is done, and the command is to be repeated.

    Example: recsys users forget 42
    """
    from infra.local.services import connected
    from recsys.contracts.types import Topic
    from recsys.features.definitions import FEATURES
    from recsys.simulation.clock import clock_of
    from recsys.store.base import StoreConfig
    from recsys.store.forgetting import forget as forget_user
    from recsys.store.redis import RedisFeatureStore
    from streaming.log import KafkaSink

    settings = connected(ServingSettings())
    store = RedisFeatureStore(
        settings.redis_url.get_secret_value(),
        FEATURES,
        StoreConfig(settings.partitions),
        settings.redis_namespace,
    )

    def bury(user_id: str) -> None:
        if settings.database_url:
            from recsys.catalogue_db.database import CatalogueDatabase

            with closing(CatalogueDatabase.of(settings)) as database:
                database.forget_user(user_id)
            return
        with closing(KafkaSink(settings.kafka, settings.partitions)) as sink:
            sink.append(Topic.USERS, user_id, b"")

    with closing(store):
        now_ms = clock_of(settings.clock)()
        had_state = forget_user(store, settings.lake, bury, user, now_ms, settings.time_rules)
    print_mapping("forgotten", {"had_state": had_state}, as_json)
