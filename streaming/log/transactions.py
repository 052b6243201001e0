"""Open transactions of other producers, by name: each holds back every record behind its first one."""

import time
from collections.abc import Sequence
from typing import Any

from kafka import TopicPartition

from recsys.contracts.types import MS_PER_SECOND

HELD_BACK_S = 10.0  # a transaction of less is under way, as it should be


def open_transactions(admin: Any, partitions: Sequence[TopicPartition]) -> list[str]:
    """A sentence for each that has been open for `HELD_BACK_S`. Raises `KafkaError`: no broker answers."""
    found = [
        (where, producer)
        for where, state in admin.describe_producers(partitions).items()
        for producer in state.active_producers
        if producer.current_transaction_start_offset >= 0
    ]
    if not found:
        return []
    producers = {producer.producer_id for _, producer in found}
    listed = admin.list_transactions(producer_id_filters=sorted(producers)).values()
    names = [entry.transactional_id for of_one_broker in listed for entry in of_one_broker]
    known = {state.producer_id: (name, state) for name, state in admin.describe_transactions(names).items()}
    sentences = []
    for where, producer in found:
        name, state = known.get(producer.producer_id, ("", None))
        began_ms = state.transaction_start_time_ms if state else producer.last_timestamp
        open_s = time.time() - began_ms / MS_PER_SECOND
        if open_s < HELD_BACK_S:
            continue
        ends = "its coordinator does not know it: abort it (docs/operations.md, TransactionStaysOpen)"
        if state is not None:
            ends = f"it is aborted after {state.transaction_timeout_ms / MS_PER_SECOND:.0f} s"
        sentences.append(
            f"{where.topic}/{where.partition}: transaction {name or '?'} of producer {producer.producer_id}, open for"
            f" {open_s:.0f} s, holds back the records from offset {producer.current_transaction_start_offset}"
            f" on; {ends}"
        )
    return sentences
