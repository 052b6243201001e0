"""Bytes between the processes of the system while a load runs.

Redis: what the server counts itself (`INFO`, both ways). Kafka: the appended records (key, value, overhead), once to
the broker and once to each reader; protocol requests without records are not counted. HTTP: counted by the load
generator.
"""

import time
from contextlib import closing
from typing import Any, Self

from infra.evaluation.stream_rig import StreamRig, records_between
from streaming.log import KafkaSource

RECORD_BYTES = 70  # the log's overhead per record: offsets, times, key length
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

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        time.sleep(_SETTLE_S)
        self.redis = self._counted() - self._before
        self.kafka = self._appended() * (1 + self._readers)

    def _counted(self) -> float:
        info = self._redis.info("stats")
        return float(info["total_net_input_bytes"] + info["total_net_output_bytes"])

    def _appended(self) -> float:
        """Bytes of the records that came since."""
        with closing(KafkaSource(self._rig.kafka.connection)) as source:
            records = records_between(source, self._ends, self._rig.ends(), _READ_S)
            return float(sum(len(r.value) + len(r.key.encode()) + RECORD_BYTES for r in records))
