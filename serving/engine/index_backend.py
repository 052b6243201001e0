"""Where a bundle's vectors are searched: its own FAISS index, shards of it in parallel, or a Milvus cluster.

Each is the immutable base of a `LiveIndex`: items added, replaced or deleted while the bundle is served are searched
exactly in this process, so changes behave the same.
"""

import re
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
from pydantic import SecretStr

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.extras import extra_named
from recsys.observability.logs import hide
from recsys.recall.ann import AnnIndex, IndexConfig, chosen_for
from recsys.recall.index_kind import Kind
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.live_index import LiveIndex
from recsys.recall.snapshots import Base, BaseIndex
from serving.settings import IndexKind, ServingSettings

_NO_TOKEN = SecretStr("")
_SEARCH_S = 1.0  # a request cannot wait longer


@dataclass(frozen=True)
class IndexPlace:
    """shards: searched in parallel. milvus_uri: search there; empty: in process. exact: scan every vector.
    Raises `InvalidConfig`: Milvus together with exact or shards.
    Raises `MissingExtra`: Milvus is configured and its client is not installed."""

    shards: int = 1
    milvus_uri: str = ""
    milvus_token: SecretStr = _NO_TOKEN
    exact: bool = False

    def __post_init__(self) -> None:
        if self.milvus_uri and (self.exact or self.shards > 1):
            ours = "RECSYS_INDEX=exact scans in" if self.exact else "RECSYS_INDEX_SHARDS parts the index of"
            raise InvalidConfig(f"{ours} this process, RECSYS_MILVUS_URI searches in Milvus: unset one")
        if self.milvus_uri:
            with extra_named("RECSYS_MILVUS_URI"):  # said at the start, not with the first bundle
                import_module("recsys.recall.milvus")

    @classmethod
    def of(cls, settings: ServingSettings) -> "IndexPlace":
        exact = settings.index is IndexKind.EXACT
        return cls(settings.index_shards, settings.milvus_uri, settings.milvus_token, exact)

    def open(self, bundle: Bundle, items: ItemVectors) -> LiveIndex:
        """The index of the bundle's vectors, (n_items, d + r), row i of item i.
        Raises `InvalidBundle`: the bundle's index does not fit its vectors.
        Raises `Unavailable`: Milvus does not answer."""
        vectors = items.indexed
        rows = np.arange(len(vectors), dtype=np.int32)
        if self.milvus_uri:
            # a rebuild would load the whole catalogue into this process: the delta stays until the next bundle
            return LiveIndex(Base(self._milvus(bundle, items), rows, vectors), rebuild_at=None)
        if self.shards > 1 or self.exact:
            config = IndexConfig(Kind.FLAT) if self.exact else chosen_for(items)
            config = replace(config, shards=self.shards)
            return LiveIndex(Base.build(vectors, config=config), config)
        index = AnnIndex.load(bundle.file("index.faiss"))
        found, wanted = (len(index), index.dimension), vectors.shape
        if found != wanted:
            raise InvalidBundle(
                f"{bundle.path.name}: index has {found[0]} rows of {found[1]} values, the item vectors {wanted[0]} of"
                f" {wanted[1]}; publish the bundle again"
            )
        return LiveIndex(Base(index, rows, vectors), None if items.linear is None else chosen_for(items))

    def _milvus(self, bundle: Bundle, items: ItemVectors) -> BaseIndex:
        """The collection named after the bundle. The first process fills it; filling it twice is harmless."""
        from recsys.recall.milvus import MilvusIndex  # most processes never need Milvus

        name = "items_" + re.sub(r"\W", "_", bundle.manifest.version, flags=re.ASCII)
        vectors, kind = items.indexed, "AUTOINDEX" if items.linear is None else "FLAT"
        uri, dimension, token = self.milvus_uri, vectors.shape[1], self.milvus_token.get_secret_value()
        hide(token)
        filler = MilvusIndex(uri, dimension, name, token, kind)
        if len(filler) != len(vectors):
            filler.upsert(np.arange(len(vectors), dtype=np.int32), vectors)
        filler.close()
        return MilvusIndex(uri, dimension, name, token, timeout_s=_SEARCH_S)
