"""The project's topics as it wants them: one table for all that creates, checks, grows or reads them.

| topic | partitions | what Kafka keeps |
|---|---|---|
| `events`, `impressions` | `RECSYS_PARTITIONS`; may grow | all records, for the retention |
| `items`, `users` | as created: a deletion must be in its key's partition | the latest record of each key |
| `dead-letter` | as created | all records, for a month, or the retention if that is longer |

The broker stamps the records of all: a producer's wrong clock must not decide which events are future or late.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import MS_PER_DAY, Topic

GROWING = (Topic.EVENTS, Topic.IMPRESSIONS)
_COMPACTED = (Topic.ITEMS, Topic.USERS)
_MOST_REPLICAS = 3
_DEAD_LETTERS_MS = 30 * MS_PER_DAY


@dataclass(frozen=True, slots=True)
class TopicRules:
    """What a user may set. `replication`: 0 is three, or as many as there are brokers. `min_insync`: replicas that must
    have a record before it is acknowledged; 0 is one less than there are, at least one. `retention_ms`: 0 is for ever;
    on compacted topics it bounds how long a deleted key is still there."""

    replication: int = 0
    min_insync: int = 0
    retention_ms: int = 7 * MS_PER_DAY

    def __post_init__(self) -> None:
        if self.replication and self.min_insync > self.replication:
            raise InvalidConfig(
                f"RECSYS_KAFKA_MIN_INSYNC={self.min_insync} is more than RECSYS_KAFKA_REPLICATION="
                f"{self.replication}: no record would ever be acknowledged"
            )

    def replicas(self, brokers: int) -> int:
        """
        >>> [TopicRules().replicas(brokers) for brokers in (1, 2, 5)]
        [1, 2, 3]
        """
        return self.replication or min(_MOST_REPLICAS, max(1, brokers))

    def configs(self, topic: str, replicas: int) -> Mapping[str, str]:
        """Kafka's settings of a topic, by name; one that is not in the table is kept as `events` is."""
        retention = str(self.retention_ms or -1)
        kept = {"cleanup.policy": "delete", "retention.ms": retention}
        if topic == Topic.DEAD_LETTER and self.retention_ms:  # it is read by people
            kept["retention.ms"] = str(max(self.retention_ms, _DEAD_LETTERS_MS))
        if topic in _COMPACTED:
            kept = {"cleanup.policy": "compact"}
            if self.retention_ms:  # a reader that was away for less sees each deletion
                kept |= {"delete.retention.ms": retention, "max.compaction.lag.ms": retention}
        return kept | {
            "message.timestamp.type": "LogAppendTime",
            "min.insync.replicas": str(self.min_insync or max(1, replicas - 1)),
        }


def check_partitions(topic: str, found: int, expected: int) -> None:
    """Raises `InvalidConfig`: the topic has another number of partitions than `RECSYS_PARTITIONS`, which matters."""
    if topic in (*_COMPACTED, Topic.DEAD_LETTER) or found == expected:
        return
    begin = f"topic {topic} has {found} partitions, RECSYS_PARTITIONS is {expected}"
    if found < expected:
        raise InvalidConfig(f"{begin}: set RECSYS_PARTITIONS={found}, or run `recsys topics grow {expected}`")
    raise InvalidConfig(
        f"{begin}: if the topic has grown, run `recsys topics grow {found}`; then set RECSYS_PARTITIONS={found}. "
        "No record is lost meanwhile: readers continue where they stopped"
    )
