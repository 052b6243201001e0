"""Documents of last night: of one feature definition, for a few nights, and gone with the user."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from infra.local.redis import RedisServer
from recsys.contracts.errors import FingerprintMismatch, Unavailable
from recsys.contracts.state import EntityState
from recsys.features.definitions import FEATURES
from recsys.features.feature_set import FeatureSet
from recsys.store.base import StoreConfig
from recsys.store.nightly import KEPT_MS, NightlyStore
from recsys.store.redis import RedisFeatureStore

pytestmark = pytest.mark.redis
OTHER = FeatureSet(FEATURES.features[:3])
STATE = EntityState({"cell": 1})


@pytest.fixture
def nightly(redis_url: str) -> Iterator[NightlyStore]:
    nightly = NightlyStore(redis_url, FEATURES)
    yield nightly
    nightly.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


def test_a_document_expires_after_a_few_nights(nightly: NightlyStore, client: Any) -> None:
    assert nightly.write_items([("i", {"a": 1.0})]) == nightly.write_users([("u", STATE)]) == 1
    for key in ("recsys:{nightly}:i:i", "recsys:{nightly}:u:u"):
        assert 0 < client.pttl(key) <= KEPT_MS


def test_no_documents_fit_every_definition(nightly: NightlyStore) -> None:
    nightly.check()
    assert nightly.items(["i"]) == [None]
    assert nightly.items([]) == []
    assert nightly.user("u") == EntityState()


def test_documents_of_other_definitions_are_refused_until_the_job_has_run(
    nightly: NightlyStore, redis_url: str
) -> None:
    other = NightlyStore(redis_url, OTHER)
    other.write_items([("gone", {"b": 1.0}), ("i", {"b": 2.0})])
    for read in (nightly.check, lambda: nightly.items(["i"]), lambda: nightly.user("u")):
        with pytest.raises(FingerprintMismatch, match="recsys features nightly"):
            read()
    nightly.write_items([("i", {"a": 1.0})])
    nightly.write_users([("u", STATE)])
    assert nightly.items(["i", "gone"]) == [{"a": 1.0}, None]
    assert nightly.user("u") == STATE
    with pytest.raises(FingerprintMismatch):  # a process that still serves the old definitions
        other.items(["i"])
    other.close()


def test_documents_without_a_fingerprint_are_refused(nightly: NightlyStore, client: Any) -> None:
    client.set("recsys:{nightly}:i:i", "{}")
    with pytest.raises(FingerprintMismatch, match="earlier version"):
        nightly.items(["i"])


def test_a_forgotten_users_document_goes_even_without_state(nightly: NightlyStore, redis_url: str) -> None:
    store = RedisFeatureStore(redis_url, FEATURES, StoreConfig(1))
    nightly.write_users([("u", STATE), ("v", STATE)])
    assert store.forget_user("u") is True
    assert nightly.user("u") == EntityState()
    assert nightly.user("v") == STATE
    assert store.forget_user("u") is False
    store.close()


def test_a_replica_after_a_failover_is_an_outage() -> None:
    with RedisServer() as server:
        nightly, client = NightlyStore(server.url, FEATURES), redis.Redis.from_url(server.url)
        nightly.write_items([("i", {"a": 1.0})])
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(Unavailable, match="replica"):
            nightly.write_items([("i", {"a": 1.0})])
        nightly.close()
        client.close()
