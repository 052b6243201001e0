"""The feature workers of a store: heartbeats, by which they share the partitions, and their reports."""

from typing import Any

from recsys.store.redis_client import redis_errors, script


class RedisWorkers:
    """This part of a `FeatureStore`, under NS:workers, NS:worker:<name> and NS:reporting."""

    def __init__(self, client: Any, namespace: str) -> None:
        """`client`: of `redis_client.connect`."""
        self._redis = client
        self._namespace = namespace
        self._heartbeat = client.register_script(script("workers.lua"))

    def workers(self, worker: str, ttl_ms: int) -> list[str]:
        with redis_errors():
            return [
                name.decode() for name in self._heartbeat([f"{self._namespace}:workers"], [worker, ttl_ms])
            ]

    def leave(self, worker: str) -> None:
        with redis_errors():
            self._redis.zrem(f"{self._namespace}:workers", worker)
            self._redis.delete(self._report_key(worker))

    def report(self, worker: str, content: bytes, ttl_ms: int) -> None:
        with redis_errors():
            self._redis.set(self._report_key(worker), content, px=ttl_ms)
            self._redis.sadd(f"{self._namespace}:reporting", worker)

    def reports(self) -> dict[str, bytes]:
        with redis_errors():
            names = sorted(name.decode() for name in self._redis.smembers(f"{self._namespace}:reporting"))
            with self._redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.get(self._report_key(name))
                found = dict(zip(names, pipe.execute(), strict=True))
            gone = [name for name, content in found.items() if content is None]
            if gone:  # a worker that reports meanwhile is added by its next report
                self._redis.srem(f"{self._namespace}:reporting", *gone)
        return {name: content for name, content in found.items() if content is not None}

    def _report_key(self, worker: str) -> str:
        return f"{self._namespace}:worker:{worker}"

    def _key(self, tag: int | str, *parts: str) -> str:
        """Of what lies in the slot of the tag: a partition's number, or a name."""
        return f"{self._namespace}:{{{tag}}}:{':'.join(parts)}"
