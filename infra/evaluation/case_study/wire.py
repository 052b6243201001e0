"""Bytes that travel between the processes of the system while a load runs: HTTP, Redis, Kafka.

HTTP is what the load generator sends and receives. Redis is what the server counts itself (`INFO`, both ways). Kafka is
the records that were appended, their keys, values and the log's own part of each, once to the broker and once more to
each reader; requests of the protocol without records are not in.
"""

import time
from types import TracebackType
from typing import Any, Self

from infra.evaluation.stream_rig import EVERY, StreamRig
from recsys.contracts.errors import Unavailable
from streaming.log import KafkaSource

RECORD_BYTES = 70  # the log's own part of a record: offsets, times, key length
_SETTLE_S = 0.6  # impressions are written a fifth of a second after the answer
_READ_S = 60.0


class Wire:
    """A context manager: bytes between enter and exit, in `redis` and `kafka`. `readers`: feature workers."""

    def __init__(self, rig: StreamRig, client: Any, readers: int) -> None:
        self._rig, self._redis, self._readers = rig, client, readers
        self.redis = self.kafka = 0.0

    def __enter__(self) -> Self:
        self._ends = self._rig.ends()
        self._before = self._counted()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        time.sleep(_SETTLE_S)
        self.redis = self._counted() - self._before
        self.kafka = self._appended() * (1 + self._readers)

    def _counted(self) -> float:
        info = self._redis.info("stats")
        return float(info["total_net_input_bytes"] + info["total_net_output_bytes"])

    def _appended(self) -> float:
        """Bytes of the records that came since."""
        ends = self._rig.ends()
        left = sum(ends[where] - self._ends[where] for where in EVERY)
        source = KafkaSource(self._rig.kafka.bootstrap)
        total, deadline = 0.0, time.monotonic() + _READ_S
        try:
            for topic, partition in EVERY:
                if ends[topic, partition] > self._ends[topic, partition]:
                    source.seek(topic, partition, self._ends[topic, partition])
            while left > 0:
                if time.monotonic() > deadline:
                    raise Unavailable(f"Kafka: {left} records could not be read back in {_READ_S:.0f} s")
                for record in source.poll(0.1, 1_000):
                    left -= 1
                    total += len(record.value) + len(record.key.encode()) + RECORD_BYTES
        finally:
            source.close()
        return total
