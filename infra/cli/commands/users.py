"""`recsys users`: merge an id into a user, forget a user."""

from contextlib import ExitStack, closing
from functools import cache
from typing import Annotated

import typer

from infra.terminal import JsonFlag, print_mapping
from serving.settings import ServingSettings

app = typer.Typer(no_args_is_help=True, help="Merge and forget users.")


@app.command()
def merge(
    merged: Annotated[str, typer.Argument(help="The id that belongs to the user from now on.")],
    user: Annotated[str, typer.Argument(help="The user's id.")],
    as_json: JsonFlag = False,
) -> None:
    """Let the history of another id belong to a user, as of now: a visitor has logged in.

    Nothing is copied. The user's lists, and the examples of later trainings, know both histories, also of what arrives
    late. An id belongs to the first user that it was merged into.

    Example: recsys users merge anon-123 42
    """
    import msgspec

    from infra.cli.stores import feature_store
    from infra.local.services import connected
    from recsys.contracts.merges import UserMerge, linked_members, parse_user_merge
    from recsys.contracts.types import Topic
    from recsys.simulation.clock import clock_of
    from streaming.log import KafkaSink

    settings = connected(ServingSettings())
    asked = parse_user_merge(UserMerge(merged, user, clock_of(settings.clock)()).to_dict())
    with closing(feature_store(settings)) as store:
        if asked.user_id not in linked_members(asked.into, store.links):
            with closing(KafkaSink(settings.kafka, settings.partitions)) as sink:
                sink.append(Topic.USERS, asked.key, msgspec.json.encode(asked.to_dict()))
        store.merge_users([asked])
        counts = asked.user_id in linked_members(asked.into, store.links)
    print_mapping("merged", {"counts": counts}, as_json)


@app.command()
def forget(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    as_json: JsonFlag = False,
) -> None:
    """Delete a user's state and its nightly snapshot from Redis, the user's row from the database where
    RECSYS_DATABASE_URL names one, and mark the user as forgotten in log and lake. The same for ids that were merged
    into the user.

    `recsys stream compact` then removes the user's rows from the lake.

    Events of the user that are still under way, and stamped before now or up to RECSYS_FUTURE_MINUTES ahead, are
    dropped. While Kafka, or that database, is away nothing is done, and the command is to be repeated.

    Example: recsys users forget 42
    """
    from infra.cli.stores import feature_store
    from infra.local.services import connected
    from recsys.contracts.types import Topic
    from recsys.simulation.clock import clock_of
    from recsys.store.forgetting import forget as forget_user
    from streaming.log import KafkaSink

    settings = connected(ServingSettings())

    def bury(user_id: str) -> None:
        if settings.database_url:
            from recsys.catalogue_db.database import CatalogueDatabase

            with closing(CatalogueDatabase.of(settings)) as database:
                database.forget_user(user_id)
            return
        bury_in_log(user_id)

    @cache
    def sink() -> KafkaSink:
        """Not needed where the user's row is in a database, and nothing was merged."""
        return opened.enter_context(closing(KafkaSink(settings.kafka, settings.partitions)))

    def bury_in_log(key: str) -> None:
        sink().append(Topic.USERS, key, b"")
        sink().flush()

    with ExitStack() as opened:
        store = opened.enter_context(closing(feature_store(settings)))
        now_ms = clock_of(settings.clock)()
        had_state = forget_user(store, settings.lake, bury, bury_in_log, user, now_ms, settings.time_rules)
    print_mapping("forgotten", {"had_state": had_state}, as_json)
