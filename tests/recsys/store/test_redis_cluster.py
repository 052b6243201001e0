"""A client of a cluster: slots that move, a node that is replaced, one that is asked as if it were alone."""

from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import AskError, MovedError

from infra.local.redis import RedisServer
from infra.local.redis_replicas import LocalRedisCluster
from recsys.contracts.errors import Unavailable
from recsys.store.redis_client import connect, redis_errors
from recsys.store.redis_cluster import masters
from recsys.store.redis_reads import open_reads
from tests.recsys.store.test_bad_states import calls

pytestmark = pytest.mark.redis

KEY, OTHER = "{slot}a", "{slot}b"
READ = ("HGETALL", KEY), ("GET", OTHER)
FOUND = [[b"f", b"1"], b"2"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalRedisCluster]:
    with LocalRedisCluster() as started:
        yield started


@pytest.fixture
def client(cluster: LocalRedisCluster) -> Iterator[Any]:
    with connect(cluster.url) as opened:
        opened.delete(KEY)
        opened.hset(KEY, "f", 1)
        opened.set(OTHER, 2)
        yield opened


def test_replies_are_as_one_server_sends_them(client: Any) -> None:
    reads = open_reads(client)
    assert reads.ask(*READ) == FOUND
    reads.close()
    assert reads.ask(*READ) == FOUND, "closed is left, not forbidden"


def test_reads_follow_a_slot_while_it_moves_and_afterwards(cluster: LocalRedisCluster, client: Any) -> None:
    reads = open_reads(client)
    assert reads.ask(*READ) == FOUND
    old = cluster.master_of(KEY)
    new = next(server for server in cluster.servers if server is not old)
    slot, ids = client.keyslot(KEY), {s: ask(s, "CLUSTER", "MYID").decode() for s in (old, new)}
    ask(new, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[old])
    ask(old, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[new])
    ask(old, "MIGRATE", "127.0.0.1", new.port, "", 0, 5_000, "KEYS", OTHER)
    with pytest.raises(AskError):
        ask(old, "GET", OTHER)
    assert reads.ask(*READ) == FOUND  # one key is here, one there
    ask(old, "MIGRATE", "127.0.0.1", new.port, "", 0, 5_000, "KEYS", KEY)
    for server in (new, old):
        ask(server, "CLUSTER", "SETSLOT", slot, "NODE", ids[new])
    with pytest.raises(MovedError):
        ask(old, "GET", OTHER)
    assert reads.ask(*READ) == FOUND
    assert client.get(OTHER) == b"2"


def test_reads_find_the_replica_that_has_taken_a_masters_place() -> None:
    with LocalRedisCluster(replicas=1) as cluster, connect(cluster.url) as client:
        client.set(OTHER, 2)
        reads, master = open_reads(client), cluster.master_of(OTHER)
        assert reads.ask(("GET", OTHER)) == [b"2"]
        cluster.fail_over(master)
        assert reads.ask(("GET", OTHER)) == [b"2"]
        assert len(masters(client)) == 3


def test_a_node_of_a_cluster_is_no_server_of_its_own(cluster: LocalRedisCluster) -> None:
    other = next(server for server in cluster.servers if server is not cluster.master_of(KEY))
    with (
        connect(f"redis://127.0.0.1:{other.port}/0") as client,
        pytest.raises(Unavailable, match=r"begins with redis\+cluster"),
        redis_errors(),
    ):
        client.get(KEY)


@pytest.mark.parametrize("url", ["redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/main/0"])
def test_without_servers_every_call_is_unavailable(url: str) -> None:
    for call in calls(url).values():
        with pytest.raises(Unavailable):
            call()


def ask(server: RedisServer, *command: str | int) -> Any:
    with server.admin() as client:
        return client.execute_command(*command)
