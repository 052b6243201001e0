"""`recsys status` of Redis: one server, a cluster, none."""

import pytest

from infra.cli.status import _redis
from recsys.store.redis_client import connect
from tests.conftest import AllowedUrl


@pytest.mark.redis
def test_a_cluster_is_added_up(redis_cluster: AllowedUrl) -> None:
    url = redis_cluster("status")
    before = _redis(url)
    with connect(url) as client:
        for n in range(30):
            client.set(f"status:{n}", n)
    found = _redis(url)
    assert (found["reachable"], found["masters"], found["keys"] - before["keys"]) == (True, 3, 30)
    assert found["bytes"] > 0
    assert found["url"].startswith("redis+cluster://***@127.0.0.1")


@pytest.mark.redis
def test_one_server_is_one_master(redis_url: str) -> None:
    assert _redis(redis_url)["masters"] == 1


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_an_outage_is_said_without_the_password(scheme: str) -> None:
    found = _redis(f"{scheme}://recsys:hunter2hunter2@127.0.0.1:1")
    assert found["reachable"] is False
    assert found["error"].startswith("Redis: ")
    assert "hunter2" not in str(found)
