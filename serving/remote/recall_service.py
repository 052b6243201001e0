"""The recall service: user tower and index of a bundle, and the items that have arrived since."""

import numpy as np

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidBundle, InvalidFilter
from recsys.contracts.filters import filter_of
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility
from recsys.items.item_table import iterate_items
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.live_items import LiveItems
from recsys.recall.two_tower import UserTower
from serving.engine.golden import check_tower
from serving.engine.index_backend import IndexPlace
from serving.engine.live_catalogue import LiveCatalogue
from serving.remote.messages import Array, Nearest, NearestCall


class RecallService:
    """Tower and index of one bundle. `live` follows the item feed; it needs no features."""

    def __init__(self, bundle: Bundle, place: IndexPlace, native: bool = False) -> None:
        """Raises `InvalidBundle`: a file cannot be used, or the golden outputs differ.
        Raises `InvalidConfig` or `Unavailable`: Milvus is configured, and its client or Milvus itself is missing."""
        self._catalogue = Catalogue(iterate_items(bundle.file("items.parquet")))
        vectors = ItemVectors.of(bundle.arrays("item_vectors.safetensors"))
        if len(self._catalogue) != len(vectors):
            raise InvalidBundle(f"{bundle.path.name}: items and vectors differ in number")
        self.bundle = bundle
        self._eligibility = Eligibility(self._catalogue)
        self._index = place.open(bundle, vectors)
        live = LiveItems(self._catalogue, self._index, vectors)
        self.live = LiveCatalogue(self._catalogue, live)
        self._tower = UserTower(bundle.file("user_tower.onnx"), vectors.vectors, native, vectors.linear)
        check_tower(bundle, self._tower)

    def nearest(self, call: NearestCall) -> Nearest:
        """None for a user of whom this tower reads nothing.
        Raises `ValueError`: the arrays are not histories, or the tower returns NaN or infinity."""
        inputs = [array.numpy() for array in (call.history, call.types, call.gaps, call.profile)]
        if not inputs[0].any() and not (self._tower.takes_profile and inputs[-1].any()):
            return Nearest(Array.of(np.empty(0, np.int32)), [])
        vector = self._tower.vectors(*inputs)
        if not np.isfinite(vector).all():
            raise ValueError("the user tower gave NaN or infinity")
        asked = filter_of(call.filter)
        try:
            eligible = self._eligibility.of(call.now_ms, asked, call.region)
        except InvalidFilter:  # an item with the attribute has reached the caller alone so far
            return Nearest(Array.of(np.empty(0, np.int32)), [])
        rows = self._index.search(vector, call.n, eligible).of(0).copy()
        newer = np.flatnonzero(rows >= self._catalogue.trained)
        ids = self._catalogue.ids(rows[newer].tolist())
        rows[newer] = -1 - np.arange(len(newer), dtype=np.int32)
        return Nearest(Array.of(rows), ids)
