"""The event log on Kafka: the only package that imports a Kafka client (kafka-python 3).

`KafkaSink` writes. `KafkaSource` reads the partitions that the caller seeks. Offsets committed to Kafka only show the
lag: each reader stores its offsets together with the effect of what it has read.
"""

from streaming.log.sink import KafkaSink
from streaming.log.source import KafkaSource, Partition, find_unreadable
from streaming.log.topics import create_topics, reachable

__all__ = ["KafkaSink", "KafkaSource", "Partition", "create_topics", "find_unreadable", "reachable"]
