"""Bytes in Redis for one item and one user: JSON documents of a batch job against the states of the stream."""

from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import redis

from infra.evaluation.benchmarks.feature_fixture import FeatureFixture
from infra.evaluation.case_study.rows import Measured
from infra.evaluation.case_study.section import Found
from infra.evaluation.load.stored import fill
from infra.local.redis import RedisServer
from recsys.contracts.types import MS_PER_DAY
from recsys.features.definitions import FEATURES
from recsys.store.base import StoreConfig
from recsys.store.nightly import NightlyStore
from recsys.store.nightly_job import write_nightly
from recsys.store.redis import RedisFeatureStore

_START_MS = 1_750_000_000_000 // MS_PER_DAY * MS_PER_DAY
# the part of a key after its partition → what it belongs to
_OWNERS = {"u": "user", "h": "user", "users": "user", "i": "item", "items": "item"}


@dataclass(frozen=True)
class Online:
    """`events` of `users` and `items` over `days`, applied by the store's own code to a private Redis.

    Two runs differ by about a thousandth: allocations depend on how the server's buffers were filled.
    """

    name: ClassVar[str] = "online"
    seed: int
    events: int = 200_000
    users: int = 2_000
    items: int = 5_000
    days: int = 7

    def measure(self) -> Found:
        fixture = FeatureFixture.make(self.users, self.items, self.days, self.seed)
        fixture = replace(fixture, start_ms=_START_MS)  # the same bytes on every day
        length_ms = self.days * MS_PER_DAY
        with RedisServer() as server:
            with (
                closing(RedisFeatureStore(server.url, FEATURES, StoreConfig(partitions=4))) as store,
                closing(NightlyStore(server.url, FEATURES)) as nightly,
            ):
                fill(store, fixture.log(self.events, _START_MS, length_ms), partitions=4)
                write_nightly(store, nightly, fixture.items, _START_MS + length_ms)
            with closing(redis.Redis.from_url(server.url)) as client:
                documents, states = _weigh(client)
        users, items = documents["users"], documents["items"]
        how = (
            f"MEMORY USAGE; {self.events} events of {users} users and {items} items over {self.days} days,"
            f" seed {self.seed}"
        )
        unit = "bytes of one item and one user"

        def row(before: float, after: float, unit: str, part: str = "") -> Measured:
            return Measured("storage_online", before, after, unit, how, part)

        of_user = documents["user"] / users, states["user"] / users
        of_item = documents["item"] / items, states["item"] / items
        return Found(
            [
                row(of_user[0] + of_item[0], of_user[1] + of_item[1], unit),
                row(*of_user, "bytes", "a user"),
                row(*of_item, "bytes", "an item"),
            ]
        )


def _weigh(client: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of documents and of states, by owner; and the number of documents."""
    documents: dict[str, int] = defaultdict(int)
    states: dict[str, int] = defaultdict(int)
    for key in client.scan_iter(count=1_000):
        _, _, after_tag = key.decode().partition("}:")
        owner = _OWNERS.get(after_tag.partition(":")[0])
        if owner is None:
            continue
        nightly = b"{nightly}" in key
        (documents if nightly else states)[owner] += client.memory_usage(key, samples=0)
        if nightly:
            documents[f"{owner}s"] += 1
    return documents, states
