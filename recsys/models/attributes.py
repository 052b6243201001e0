"""Attributes of items and users as rows of hashed tables, so that unseen items and users have a vector.

Numpy only: training builds the item tower on it, serving computes the vectors of new items with it.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import Item

SLOTS = 16  # attributes per item; further ones are ignored
PROFILE_SLOTS = 8  # attributes per user
PROFILE_BUCKETS = 1024  # rows of the users' table, besides row 0 for none
_EXACT = 32  # whole numbers below this have their own word
# scripts that are written without spaces: Thai, Lao, Burmese, Khmer, kana and Han
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUNS = re.compile(f"([{_UNSPACED}]+)|[^\\s{_UNSPACED}]+")


def attribute_texts(item: Item) -> Iterator[str]:
    """An item's categories, creator, attributes and title, as words.

    >>> list(attribute_texts(Item("7", "The Matrix", ("Action",), attributes={"year": "1999"})))
    ['category=Action', 'year=1999', 'title=the', 'title=matrix']
    """
    yield from (f"category={category}" for category in item.categories)
    if item.creator:
        yield f"creator={item.creator}"
    yield from (f"{name}={value}" for name, value in sorted(item.attributes.items()))
    yield from (f"title={word}" for word in _words(item.title.lower()))


def _words(title: str) -> Iterator[str]:
    """Words of three letters or more; where a script has no spaces, every two characters that follow each other.

    >>> list(_words("spirited away")), list(_words("千と千尋 2"))
    (['spirited', 'away'], ['千と', 'と千', '千尋'])
    """
    for run in _RUNS.finditer(title):
        text = run.group()
        if run.group(1):
            yield from (text[n : n + 2] for n in range(max(1, len(text) - 1)))
        elif len(text) > 2:
            yield text


def hash_attributes(items: Sequence[Item], buckets: int) -> NDArray[np.int64]:
    """(n_items, SLOTS) int64 rows of a table of 1 + `buckets` rows; 0 for none.

    The hash is stable (BLAKE2b), so an item added later uses trained rows.
    """
    table = np.zeros((len(items), SLOTS), np.int64)
    for row, item in enumerate(items):
        for slot, text in zip(range(SLOTS), attribute_texts(item), strict=False):
            table[row, slot] = _hashed(text, buckets)
    return table


def profile_rows(attributes: Mapping[str, str]) -> NDArray[np.int64]:
    """(PROFILE_SLOTS,) int64 rows of the users' table for a user's static attributes; 0 for none.

    Numbers from 32 on are bucketed by quarter octaves: a table cannot learn one word per registration day.
    """
    rows = np.zeros(PROFILE_SLOTS, np.int64)
    for slot, (name, value) in zip(range(PROFILE_SLOTS), sorted(attributes.items()), strict=False):
        rows[slot] = _hashed(f"{name}={_coarse(value)}", PROFILE_BUCKETS)
    return rows


def _coarse(value: str) -> str:
    """The value itself for words and small numbers, else its bucket.

    >>> [_coarse(text) for text in ("F", "31", "32", "36", "1000")]
    ['F', '31', '>20', '>20', '>39']
    """
    if not value.isdecimal() or int(value) < _EXACT:
        return value
    return f">{int(4 * math.log2(int(value)))}"


def _hashed(text: str, buckets: int) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % buckets


def vectors_from_attributes(items: Sequence[Item], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of items outside the training data: the normalised mean of their attributes' rows.

    Args:
        table: (1 + buckets, d), `attributes` in the bundle's `item_vectors.safetensors`.

    Returns:
        (n_items, d) float32 of length 1; zeros for an item without attributes.
    """
    slots = hash_attributes(items, len(table) - 1)
    present = (slots > 0)[..., None]
    means = (table[slots] * present).sum(1) / np.maximum(present.sum(1), 1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.where(lengths > 0, lengths, 1), np.float32)
