"""A Kafka broker of our own on 127.0.0.1, of one of two kinds; `brokers` chooses."""

from pathlib import Path
from typing import ClassVar, Self

from infra.local.server import EmbeddedServer
from recsys.contracts.topic_rules import TopicRules
from recsys.contracts.types import Topic
from recsys.kafka_connection import KafkaConnection
from streaming.log import create_topics, reachable


class KafkaBroker(EmbeddedServer):
    """One broker. `partitions`: of each topic of the project; `rules`: how new ones are made; `topic_prefix`: before
    their names."""

    name = "kafka"
    is_durable: ClassVar[bool]  # its log outlives a kill

    def __init__(
        self,
        data: Path | None = None,
        partitions: int = 4,
        port: int = 0,
        rules: TopicRules | None = None,
        topic_prefix: str = "",
    ) -> None:
        super().__init__(data, port)
        self._topic_prefix = topic_prefix
        self._partitions = partitions
        self._rules = rules

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connection(self) -> KafkaConnection:
        return KafkaConnection(self.bootstrap, topic_prefix=self._topic_prefix)

    def ready(self) -> bool:
        return reachable(self.connection)

    def start(self) -> Self:
        """Start the broker and create the topics that it lacks."""
        super().start()
        create_topics(self.connection, list(Topic), self._partitions, self._rules)
        return self
