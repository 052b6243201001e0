"""Encode a user's history as the arrays that both models read. Numpy only: training and serving share this file.

An item's *number* is its row in the item table plus one; 0 is padding. Event types and time gaps are also numbered from
one; 0 is padding or unknown.

`gaps[i]` is the time from event i to the next event; for the newest event, its age. So the encoding of a prefix at
its next event is the prefix of the encoding, and one causal pass over a history trains the model on all of its
prefixes.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import Visit
from recsys.contracts.types import MS_PER_SECOND, EventType

TYPE_NUMBERS: Mapping[EventType, int] = {t: i + 1 for i, t in enumerate(EventType)}
# What a taste model adds to the logits of the ranker's first heads, click and conversion: log odds within ± the limit,
# beyond which a probability is 0 or 1 in float32.
OFFSETS, OFFSET_LIMIT = 2, 20.0
N_TYPES = len(EventType) + 1  # with padding
N_GAPS = 32  # 0: padding or unknown time; 1: below a second; then doubling up to 2^30 s, 34 years


class EncodedHistory(NamedTuple):
    """One history, newest last, left-padded with 0. Each (L,) int64."""

    history: NDArray[np.int64]  # item numbers
    types: NDArray[np.int64]
    gaps: NDArray[np.int64]


def gap_buckets(earlier_ms: NDArray[np.int64], later_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """1 + floor(log2(1 + whole seconds between)), at most `N_GAPS` - 1, without rounding errors of a logarithm.

    A negative difference (clock skew) counts as 0.

    >>> gap_buckets(np.array([0, 0, 0, 5000]), np.array([999, 1000, 3600_000, 0])).tolist()
    [1, 2, 12, 1]
    """
    seconds = np.maximum(later_ms - earlier_ms, 0) // MS_PER_SECOND
    exponent = np.frexp((seconds + 1).astype(np.float64))[1]  # x = m * 2^e with m in [0.5, 1)
    buckets: NDArray[np.int64] = np.minimum(exponent.astype(np.int64), N_GAPS - 1)
    return buckets


def encode_arrays(
    numbers: NDArray[np.int64],
    types: NDArray[np.int64],
    times_ms: NDArray[np.int64],
    now_ms: int,
    length: int,
) -> EncodedHistory:
    """Encode the newest `length` events of a numbered history.

    Args:
        numbers, types: (n,) item and type numbers, oldest first; no padding.
        times_ms: (n,) Unix milliseconds, not decreasing; 0: unknown, with gap 0.
        now_ms: time of the prediction; 0: unknown.
        length: L of the result.
    """
    n = min(len(numbers), length)
    encoded = EncodedHistory(*(np.zeros(length, np.int64) for _ in EncodedHistory._fields))
    if n == 0:
        return encoded
    times = times_ms[-n:]
    following = np.append(times[1:], now_ms)
    known = (times > 0) & (following > 0)
    encoded.history[-n:] = numbers[-n:]
    encoded.types[-n:] = types[-n:]
    encoded.gaps[-n:] = np.where(known, gap_buckets(times, following), 0)
    return encoded


def encode_visits(
    visits: Iterable[Visit], rows: Mapping[str, int], now_ms: int, length: int, n_items: int = 1 << 62
) -> EncodedHistory:
    """Encode a stored history (oldest first). `rows` maps an item id to its row in the item table.

    Items unknown to the model (no row, or one from `n_items` on) are left out. Visits after `now_ms` (clock skew) count
    as of now.
    """
    known = [
        (row + 1, TYPE_NUMBERS[v.type], v.event_time_ms)
        for v in visits
        if (row := rows.get(v.item_id, n_items)) < n_items
    ]
    columns = np.array(known[-length:], dtype=np.int64).reshape(-1, 3).T
    return encode_arrays(columns[0], columns[1], columns[2], now_ms, length)
