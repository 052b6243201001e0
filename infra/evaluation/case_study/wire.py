"""Bytes between the processes of the system while a load runs.

Redis: what the server counts itself (`INFO`, both ways). Kafka: the appended records (key, value, overhead), once to
the broker and once to each reader; protocol requests without records are not counted. HTTP: counted by the load
generator.
"""

import time
from contextlib import closing
from typing import Any, Self

from infra.evaluation.stream_rig import Offsets, StreamRig, records_between
from recsys.contracts.errors import Unavailable
from streaming.log import KafkaSource

RECORD_BYTES = 70  # the log's overhead per record: offsets, times, key length
_STILL_S = 1.5  # longer than impressions wait in the API before they are sent
_POLL_S = 0.1
_READ_S = 60.0


class Wire:
    """A context manager: bytes between enter and exit, in `redis` and `kafka`. `readers`: feature workers."""

    def __init__(self, rig: StreamRig, client: Any, readers: int) -> None:
        self._rig, self._redis, self._readers = rig, client, readers
        self.redis = self.kafka = 0.0

    def __enter__(self) -> Self:
        self._ends = self._still_ends()  # what an earlier load has left to send is not of this one
        self._before = self._counted()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        ends = self._still_ends()
        self.redis = self._counted() - self._before
        self.kafka = self._appended(ends) * (1 + self._readers)

    def _counted(self) -> float:
        info = self._redis.info("stats")
        return float(info["total_net_input_bytes"] + info["total_net_output_bytes"])

    def _still_ends(self) -> Offsets:
        """Where the log ends once nothing comes any more. Raises `Unavailable`: records keep coming."""
        ends, since = self._rig.ends(), time.monotonic()
        deadline = since + _READ_S
        while time.monotonic() - since < _STILL_S:
            time.sleep(_POLL_S)
            if (now := self._rig.ends()) != ends:
                ends, since = now, time.monotonic()
            if since > deadline:
                raise Unavailable("records keep coming, though no load is running")
        return ends

    def _appended(self, ends: Offsets) -> float:
        """Bytes of the records that came since, up to these ends."""
        with closing(KafkaSource(self._rig.kafka.connection)) as source:
            records = records_between(source, self._ends, ends, _READ_S)
            return float(sum(len(r.value) + len(r.key.encode()) + RECORD_BYTES for r in records))
