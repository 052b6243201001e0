"""A Milvus server as the index, for catalogues larger than one machine. This is the only file that imports pymilvus.

The client is the same for a cluster ("http://host:19530", with a token) and for Milvus Lite (a file name), which the
tests use. Needs the `milvus` extra. On one machine `LiveIndex` is faster: a search here is a network call.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient, MilvusException

from recsys.contracts.eligible import Eligible
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.request import Rows
from recsys.recall.vector_index import Found, check_queries, check_vectors, nothing

MOST = 16_384  # results of one search, at most
_ROW, _VECTOR = "row", "vector"
_BATCH = 5_000  # rows per insert: Milvus accepts messages of up to 64 MB


class MilvusIndex:
    """`MutableIndex` in one collection of a Milvus server. Unchanged, it can be the base of a `LiveIndex`."""

    compressed = True  # the server chooses the index, so scores may come from codes
    selects = False  # it does not have the items' attributes

    def __init__(
        self,
        uri: str,
        dimension: int,
        collection: str = "items",
        token: str = "",
        index_type: str = "AUTOINDEX",
        timeout_s: float = 10.0,
    ) -> None:
        """Connect, and create a missing collection.

        Args:
            index_type: of a new collection; "AUTOINDEX" lets the server choose, "FLAT" is exact.

        Raises:
            Unavailable: the server does not answer.
            InvalidConfig: the collection has another dimension.
        """
        self.dimension = dimension
        self._collection = collection
        self._timeout_s = timeout_s
        try:
            self._client = MilvusClient(uri, token=token, timeout=timeout_s)
            if not self._client.has_collection(collection):
                self._create(index_type)
            fields = self._client.describe_collection(collection)["fields"]
        except MilvusException as error:
            raise Unavailable(f"Milvus at {uri}: {error.message}") from error
        found = int(next(field["params"]["dim"] for field in fields if field["name"] == _VECTOR))
        if found != dimension:
            raise InvalidConfig(f"Milvus collection {collection!r} has {found} dimensions, not {dimension}")

    def __len__(self) -> int:
        with _unavailable():
            counted = self._client.query(
                self._collection, filter="", output_fields=["count(*)"], timeout=self._timeout_s
            )
        return int(counted[0]["count(*)"])

    def search(self, queries: NDArray[np.float32], k: int, eligible: Eligible | None = None) -> Found:
        """See `VectorIndex.search`; at most `MOST` results, ineligible ones included.

        Raises:
            Unavailable: the server does not answer in time.
        """
        queries = check_queries(queries, k, self.dimension)
        k = min(k, MOST)
        if not len(queries):
            return nothing(0)
        with _unavailable():
            answers = self._client.search(
                self._collection, data=list(queries), limit=k, output_fields=[_ROW], timeout=self._timeout_s
            )
        found = nothing(len(queries), max(map(len, answers), default=0))
        for query, hits in enumerate(answers):
            found.rows[query, : len(hits)] = [hit[_ROW] for hit in hits]
            found.scores[query, : len(hits)] = [hit["distance"] for hit in hits]
        return found

    def upsert(self, rows: Rows, vectors: NDArray[np.float32]) -> None:
        """See `MutableIndex.upsert`."""
        rows, vectors = check_vectors(np.asarray(rows, np.int32), vectors, self.dimension)
        for start in range(0, len(rows), _BATCH):
            part = slice(start, start + _BATCH)
            records = [
                {_ROW: row, _VECTOR: vector}
                for row, vector in zip(rows[part].tolist(), vectors[part], strict=True)
            ]
            with _unavailable():
                self._client.upsert(self._collection, records, timeout=self._timeout_s)

    def remove(self, rows: Rows) -> None:
        """See `MutableIndex.remove`."""
        gone = np.unique(np.asarray(rows, np.int32)).tolist()
        if gone:
            with _unavailable():
                self._client.delete(self._collection, ids=gone, timeout=self._timeout_s)

    def drop(self) -> None:
        """Delete the collection, such as that of a retired bundle."""
        with _unavailable():
            self._client.drop_collection(self._collection, timeout=self._timeout_s)

    def close(self) -> None:
        self._client.close()

    def _create(self, index_type: str) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(_ROW, DataType.INT64, is_primary=True)
        schema.add_field(_VECTOR, DataType.FLOAT_VECTOR, dim=self.dimension)
        index = self._client.prepare_index_params()
        index.add_index(_VECTOR, index_type=index_type, metric_type="IP")
        # strong: a search sees every acknowledged change, as the interface promises
        self._client.create_collection(
            self._collection, schema=schema, index_params=index, consistency_level="Strong"
        )


@contextmanager
def _unavailable() -> Iterator[None]:
    """Convert Milvus's errors to `Unavailable`."""
    try:
        yield
    except MilvusException as error:
        raise Unavailable(f"Milvus: {error.message}") from error
