"""Rows of one bucket: sorted, each event once."""

import pyarrow as pa
import pytest

from training.features.arrow_columns import sorted_events


@pytest.mark.parametrize("key", ["user_id", "item_id"])
def test_an_event_that_was_sent_again_with_another_time_counts_once(key: str) -> None:
    rows = pa.table(
        {
            "user_id": ["a", "a", "b", "a"],
            "item_id": ["a", "a", "b", "a"],
            "event_time_ms": [3, 2, 9, 1],
            "event_id": ["sent twice", "other", "z", "sent twice"],
        }
    )
    assert sorted_events(rows, key).column("event_time_ms").to_pylist() == [1, 2, 9]
    assert sorted_events(rows.slice(0, 0), key).num_rows == 0


def test_equal_ids_of_two_users_are_two_events_of_an_item() -> None:
    rows = pa.table(
        {
            "user_id": ["v", "u", "v"],
            "item_id": ["i"] * 3,
            "event_time_ms": [1, 2, 3],
            "event_id": ["same"] * 3,
        }
    )
    assert sorted_events(rows, "item_id").column("event_time_ms").to_pylist() == [1, 2]
