"""Which items a request may show: those that are out, within their window, in its region, and that its filter wants.

The masks are kept: the one by time until the next item comes or goes, the one of a filter and a region as long as the
catalogue has the same version.
"""

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.eligible import Eligible
from recsys.contracts.filters import Among, Condition, Every, Field, Filter, Kind, Missing, Some
from recsys.contracts.request import Rows
from recsys.items.catalogue import Catalogue

UPCOMING, UNAVAILABLE, REGION, FILTER = "upcoming", "unavailable", "region", "filter"
_MAX_BYTES = 32 << 20  # of masks that are kept, with what is made of them
_BYTES_PER_ITEM = 6  # at most: mask, bits and rows of `Eligible`
_REGIONS = Field("regions", Kind.TEXT)
_NEVER_MS = np.iinfo(np.int64).max


class _Window(NamedTuple):
    """What time alone leaves, from `since_ms` and before `until_ms`; None: all items."""

    version: int
    since_ms: int
    until_ms: int
    eligible: Eligible | None


class _Kept(NamedTuple):
    version: int
    window: Eligible | None
    eligible: Eligible


class Eligibility:
    """Of one catalogue. Thread-safe."""

    def __init__(self, catalogue: Catalogue, max_bytes: int = _MAX_BYTES) -> None:
        self.catalogue = catalogue
        self._max_bytes = max_bytes
        self._window = _Window(-1, 0, 0, None)
        # by condition, and whether it is of a region alone; the latest used at the end
        self._kept: OrderedDict[tuple[Condition, bool], _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, now_ms: int, asked: Filter | None = None, region: str = "") -> Eligible | None:
        """What a request may show at this time; None: every item.
        Raises `InvalidFilter`: no item has an attribute of the filter, or not of the type that it asks for."""
        condition = self._condition(asked, region)
        if condition is None:
            return self._by_time(now_ms).eligible
        return self._selected(condition, now_ms, asked, region)

    def reasons(
        self, rows: Rows, now_ms: int, asked: Filter | None = None, region: str = ""
    ) -> dict[str, NDArray[np.bool_]]:
        """Why rows that are not eligible are not: reason → (n,) bool. A row has at least one reason."""
        if not len(rows):
            return {}
        found = self._masks(rows, now_ms, asked, region)
        # an item that has changed since the mask was made has no reason any more
        found[UNAVAILABLE] |= ~np.logical_or.reduce([*found.values()])
        return {reason: mask for reason, mask in found.items() if mask.any()}

    def _masks(
        self, rows: Rows, now_ms: int, asked: Filter | None, region: str
    ) -> dict[str, NDArray[np.bool_]]:
        """Reason → (n,) bool: the rows that are not eligible for it."""
        catalogue = self.catalogue
        starts, ends = catalogue.available_from_ms[rows], catalogue.available_until_ms[rows]
        found = {
            UPCOMING: catalogue.created_ms[rows] > now_ms,
            UNAVAILABLE: (starts > now_ms) | ((ends != 0) & (ends <= now_ms)),
        }
        if catalogue.has_regions:
            found[REGION] = ~catalogue.holds(_in_region(region), rows)
        if asked is not None:
            found[FILTER] = ~catalogue.holds(asked.condition, rows)
        return found

    def ineligible(self, now_ms: int, asked: Filter | None = None, region: str = "") -> dict[str, Rows]:
        """All items that are not eligible by reason, without deleted ones."""
        rows = np.flatnonzero(self.catalogue.alive).astype(np.int32)
        masks = self._masks(rows, now_ms, asked, region)
        return {reason: rows[mask] for reason, mask in masks.items() if mask.any()}

    def closes_ms(self, rows: Rows) -> int | None:
        """When the first of these items stops being available; None: no end is known."""
        if not self.catalogue.has_windows:
            return None
        ends = self.catalogue.available_until_ms[rows]
        ends = ends[ends != 0]
        return int(ends.min()) if len(ends) else None

    def _condition(self, asked: Filter | None, region: str) -> Condition | None:
        in_region = _in_region(region) if self.catalogue.has_regions else None
        if asked is None:
            return in_region
        return asked.condition if in_region is None else Every((asked.condition, in_region))

    def _selected(self, condition: Condition, now_ms: int, asked: Filter | None, region: str) -> Eligible:
        """The items for which the condition of a filter and a region holds, of those in the window."""
        window = self._by_time(now_ms)
        with self._lock:
            kept = self._kept.get((condition, asked is None))
            if kept is not None and kept.version == window.version and kept.window is window.eligible:
                self._kept.move_to_end((condition, asked is None))
                return kept.eligible
        version, mask = self.catalogue.select(condition)
        if version != window.version:  # an item has come or changed in between: its window is not known yet
            window = self._by_time(now_ms)
        if window.eligible is not None:
            mask &= window.eligible.of(np.arange(len(mask), dtype=np.int32))
        offered = None if asked is None else self.offered(now_ms, region)
        eligible = Eligible(mask, narrowed=True, offered=offered)
        with self._lock:
            self._kept[condition, asked is None] = _Kept(version, window.eligible, eligible)
            self._kept.move_to_end((condition, asked is None))
            while len(self._kept) > max(1, self._max_bytes // (_BYTES_PER_ITEM * max(1, len(mask)))):
                self._kept.popitem(last=False)
        return eligible

    def offered(self, now_ms: int, region: str = "") -> int:
        """How many items a request without a filter may show."""
        eligible = self.of(now_ms, None, region)
        return int(np.count_nonzero(self.catalogue.alive)) if eligible is None else eligible.offered

    def _by_time(self, now_ms: int) -> _Window:
        """The items that are out, and within their window."""
        window, version = self._window, self.catalogue.version
        if window.version != version or not window.since_ms <= now_ms < window.until_ms:
            window = self._window = _window(self.catalogue, version, now_ms)
        return window


def _window(catalogue: Catalogue, version: int, now_ms: int) -> _Window:
    """`version` was read before: what changes meanwhile is searched for again."""
    created = catalogue.created_ms
    n = len(created)
    edges, hidden = [created], created > now_ms
    if catalogue.has_windows:
        starts, ends = catalogue.available_from_ms[:n], catalogue.available_until_ms[:n]
        edges += [starts, ends]
        hidden |= (starts > now_ms) | ((ends != 0) & (ends <= now_ms))
    since_ms = max(int(at.max(where=at <= now_ms, initial=0)) for at in edges)
    until_ms = min(int(at.min(where=at > now_ms, initial=_NEVER_MS)) for at in edges)
    if not hidden.any():
        return _Window(version, since_ms, until_ms, None)
    offered = int(np.count_nonzero(catalogue.alive[:n] & ~hidden))
    return _Window(version, since_ms, until_ms, Eligible(~hidden, offered=offered))


def _in_region(region: str) -> Condition:
    """An item without regions is available everywhere; one with regions only where the region is known to be one."""
    everywhere = Missing(_REGIONS)
    return Some((everywhere, Among(_REGIONS, texts=frozenset({region})))) if region else everywhere
