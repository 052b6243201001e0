"""Reads on kept connections: the right reply to each, whatever happened to the server in between."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from infra.local.redis import RedisServer
from recsys.store.redis_client import connect, is_wrong_type
from recsys.store.redis_reads import ThreadReads

pytestmark = pytest.mark.redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


def test_replies_come_in_order_and_as_redis_sends_them(server: RedisServer) -> None:
    client = connect(server.url)
    client.hset("h", "a", 1)
    client.zadd("z", {"m": 2})
    reads = ThreadReads(client)
    assert reads.ask(("HGETALL", "h"), ("ZRANGE", "z", 0, -1, "WITHSCORES"), ("GET", "none")) == [
        [b"a", b"1"],
        [b"m", b"2"],
        None,
    ]
    reads.close()
    assert reads.ask(("HGET", "h", "a")) == [b"1"], "closed is left, not forbidden"


def test_every_thread_gets_its_own_replies(server: RedisServer) -> None:
    client = connect(server.url)
    reads = ThreadReads(client)
    client.mset({str(n): n for n in range(50)})

    def same(n: int) -> bool:
        return all(reads.ask(("GET", n), ("GET", n)) == [b"%d" % n] * 2 for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, range(50)))


def test_a_restart_is_not_noticed_and_an_outage_is_said(server: RedisServer) -> None:
    client = connect(server.url)
    reads = ThreadReads(client)
    assert reads.ask(("PING",)) == [b"PONG"]
    server.kill()
    with pytest.raises(redis.ConnectionError):
        reads.ask(("PING",))
    server.start()
    assert reads.ask(("PING",)) == [b"PONG"]
    server.kill()
    server.start()
    assert reads.ask(("PING",)) == [b"PONG"], "the kept connection is of the server before"


def test_a_late_reply_never_answers_another_command(server: RedisServer) -> None:
    client = connect(server.url, timeout_s=0.1)
    client.mset({"a": 1, "b": 2})
    reads = ThreadReads(client)
    assert reads.ask(("GET", "a")) == [b"1"]
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(redis.TimeoutError):
            reads.ask(("GET", "a"))
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert reads.ask(("GET", "b")) == [b"2"]
    with pytest.raises(redis.ResponseError):
        reads.ask(("SETBIT", "a", -1, 1), ("GET", "a"))
    assert reads.ask(("GET", "b")) == [b"2"]
    wrong, right = reads.ask(("HGET", "a", "of the wrong type"), ("GET", "a"))
    assert (is_wrong_type(wrong), right) == (True, b"1")
    assert reads.ask(("GET", "b")) == [b"2"]
