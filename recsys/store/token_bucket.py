"""Rate limits that several processes share: one token bucket per key, in Redis, by its clock."""

from recsys.store.redis_client import connect, redis_errors

# A full bucket is not stored: it expires once it has filled up.
_TAKE = """
local now = redis.call('TIME')
local at = now[1] + now[2] / 1e6
local rate, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = math.min(burst, (tonumber(bucket[1]) or burst) + rate * math.max(0, at - (tonumber(bucket[2]) or at)))
-- more than a full bucket is taken on credit: the next one waits until it is paid back
local missing = math.min(wanted, burst) - tokens
if missing <= 0 then
  tokens = tokens - wanted
end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', tostring(at))
redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * (burst - tokens) / rate) + 1000)
return tostring(math.max(0, missing) / rate)
"""


class RedisTokenBuckets:
    """Thread-safe. Each bucket gains `rate` tokens per second, up to `burst`."""

    def __init__(
        self, url: str, rate: float, burst: int, timeout_s: float, namespace: str = "recsys"
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._namespace = namespace
        self._client = connect(url, timeout_s, retries=0)  # tokens are not taken twice
        self._take = self._client.register_script(_TAKE)

    def take(self, key: str, tokens: int = 1) -> float:
        """Take the tokens and return 0.0, or take none and return the seconds until there are enough; a full bucket is
        enough for any number. Raises `Unavailable`: Redis does not respond, or takes no writes."""
        with redis_errors():
            return float(self._take([f"{self._namespace}:limit:{key}"], [self._rate, self._burst, tokens]))

    def close(self) -> None:
        self._client.close()
