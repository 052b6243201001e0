"""The event log on Kafka: the only package that imports a Kafka client (kafka-python 3).

`KafkaSink` writes, `KafkaSource` reads partitions that its user chooses. Offsets committed to Kafka only show the
lag: each reader keeps its own position with the effect of what it has read.
"""

from streaming.log.sink import KafkaSink
from streaming.log.source import KafkaSource, Partition
from streaming.log.topics import create_topics, reachable

__all__ = ["KafkaSink", "KafkaSource", "Partition", "create_topics", "reachable"]
