"""An item's attributes as rows of one hashed table, so that an item unseen in training still has a vector.

Numpy only: training builds its item tower on it, serving makes the vector of a fresh item with it.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.types import Item

SLOTS = 16  # attributes an item at most; the first ones are kept


def attribute_texts(item: Item) -> Iterator[str]:
    """What is known of an item, as words: categories, creator, attributes, the words of its title.

    >>> list(attribute_texts(Item("7", "The Matrix", ("Action",), attributes={"year": "1999"})))
    ['category=Action', 'year=1999', 'title=the', 'title=matrix']
    """
    yield from (f"category={category}" for category in item.categories)
    if item.creator:
        yield f"creator={item.creator}"
    yield from (f"{name}={value}" for name, value in sorted(item.attributes.items()))
    yield from (f"title={word}" for word in item.title.lower().split() if len(word) > 2)


def hash_attributes(items: Sequence[Item], buckets: int) -> NDArray[np.int64]:
    """(n_items, SLOTS) int64 rows of a table of 1 + `buckets` rows; 0 for none.

    A stable hash (BLAKE2b): an item added later lands on the rows that were trained.
    """
    table = np.zeros((len(items), SLOTS), np.int64)
    for row, item in enumerate(items):
        for slot, text in zip(range(SLOTS), attribute_texts(item), strict=False):
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            table[row, slot] = 1 + int.from_bytes(digest, "little") % buckets
    return table


def vectors_from_attributes(items: Sequence[Item], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of items that the model was not trained on: the mean of their attributes' rows, normalised.

    Args:
        table: (1 + buckets, d), `attributes` in the bundle's `item_vectors.safetensors`.

    Returns:
        (n_items, d) float32 of length 1; zeros for an item of which nothing is known.
    """
    slots = hash_attributes(items, len(table) - 1)
    present = (slots > 0)[..., None]
    means = (table[slots] * present).sum(1) / np.maximum(present.sum(1), 1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.where(lengths > 0, lengths, 1), np.float32)
