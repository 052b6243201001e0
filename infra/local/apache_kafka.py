"""Apache Kafka: one durable node, broker and KRaft controller at once.

Its folder is formatted once and holds the log, which outlives the process: a stop as well as a kill. What clients see
is what a cluster shows them, apart from replication.
"""

import base64
import subprocess
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from infra.local.kafka import KafkaBroker
from infra.local.kafka_jars import java, kafka_jars
from infra.local.process import free_port
from recsys.contracts.errors import Unavailable
from recsys.contracts.topic_rules import TopicRules

_FORMAT_TIMEOUT_S = 60


class ApacheKafka(KafkaBroker):
    """`jars`: of Kafka's server; None: found by `kafka_jars`."""

    is_durable = True
    start_timeout_s = 120.0  # four seconds, where the processor is not shared

    def __init__(
        self,
        data: Path | None = None,
        partitions: int = 4,
        port: int = 0,
        jars: Path | None = None,
        options: Mapping[str, str] | None = None,
        cluster_id: str = "",
        rules: TopicRules | None = None,
        topic_prefix: str = "",
    ) -> None:
        """`options`: more of the node's properties, or others than those here. `cluster_id`: the same for the nodes of
        one cluster; empty: a new one.

        Raises:
            InvalidConfig, Unavailable: as `kafka_jars`.
        """
        self._classpath = f"{kafka_jars(jars)}/*"
        super().__init__(data, partitions, port, rules, topic_prefix)
        self._options = options or {}
        self._cluster_id = cluster_id or new_cluster_id()

    def command(self) -> list[str | Path]:
        properties = self.data.absolute() / "server.properties"
        settings = {**self._properties(), **self._options}
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        if not (self._log / "meta.properties").exists():
            self._format(properties)
        return [*self._java("-Xmx512m"), "kafka.Kafka", properties]

    @property
    def _log(self) -> Path:
        return self.data.absolute() / "log"

    def _properties(self) -> dict[str, str]:
        """The ports may be others after a restart: the voters are taken from here, not from the log."""
        controller = f"127.0.0.1:{free_port()}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self._log),
            "auto.create.topics.enable": "false",
            # after a kill, the controller takes the node back once its old session has ended; nine seconds by default
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "1000",
            # a single node has no replicas of its own topics
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        }

    def _format(self, properties: Path) -> None:
        command = [*self._java("-Xmx128m"), "kafka.tools.StorageTool", "format"]
        options = ["--cluster-id", self._cluster_id, "--config", str(properties)]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=_FORMAT_TIMEOUT_S, check=False
        )
        if done.returncode:
            raise Unavailable(
                f"Kafka cannot format {self._log}: {' | '.join((done.stdout + done.stderr).splitlines()[-3:])}"
            )

    def _java(self, memory: str) -> list[str | Path]:
        """The quick compiler and the simple collector take half the processor time of a start, and less when idle."""
        quick = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
        return [java(), memory, *quick, "-Djava.awt.headless=true", "-cp", self._classpath]


def new_cluster_id() -> str:
    """A random id as Kafka writes them: never with a leading dash, which would be an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text
