"""Token buckets: a burst, then the rate, one bucket a key."""

import pytest

from recsys.contracts.errors import Unavailable
from recsys.store.token_bucket import RedisTokenBuckets

pytestmark = pytest.mark.redis


def test_a_burst_passes_then_the_rate_limits(redis_url: str) -> None:
    buckets = RedisTokenBuckets(redis_url, rate=0.01, burst=5, timeout_s=20)
    assert [buckets.take("a") for _ in range(5)] == [0.0] * 5
    wait_s = buckets.take("a")
    assert 90 < wait_s <= 100  # a token comes every 100 s
    assert buckets.take("b", 5) == 0.0  # another key, another bucket
    assert buckets.take("b") > 0
    buckets.close()


def test_what_is_refused_takes_nothing(redis_url: str) -> None:
    buckets = RedisTokenBuckets(redis_url, rate=0.001, burst=5, timeout_s=20)
    assert buckets.take("a", 3) == 0.0
    assert buckets.take("a", 3) > 0
    assert buckets.take("a", 2) == 0.0


def test_tokens_flow_back(redis_url: str) -> None:
    buckets = RedisTokenBuckets(redis_url, rate=1_000.0, burst=2, timeout_s=20)
    waits = [buckets.take("a", 2) for _ in range(50)]
    assert waits.count(0.0) >= 1
    assert max(waits) <= 0.002


def test_more_than_a_bucket_holds_is_taken_on_credit(redis_url: str) -> None:
    """A batch of a thousand at ten a second is paid for, however small the bucket is."""
    buckets = RedisTokenBuckets(redis_url, rate=0.01, burst=5, timeout_s=20)
    assert buckets.take("a", 100) == 0.0
    assert 9_500 < buckets.take("a") <= 9_600  # 95 on credit and one, a token every 100 s
    assert 9_500 < buckets.take("a", 1_000) - 400 <= 9_600  # a full bucket would be enough


def test_without_redis_it_says_so() -> None:
    with pytest.raises(Unavailable):
        RedisTokenBuckets("redis://127.0.0.1:1/0", 1.0, 1, timeout_s=1.0).take("a")
