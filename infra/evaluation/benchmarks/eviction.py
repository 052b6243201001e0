"""Policies of eviction, simulated: the misses of a sequence of accesses, entries being of equal weight.

An access is a key and a version. An entry of another version is a miss, and the new value takes its place.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence

from serving.caching.cache import Cache

Access = tuple[Hashable, Hashable]  # key, version

_SMALL = 0.1  # share of S3-FIFO's small queue
_MOST_HITS = 3  # that S3-FIFO counts of an entry


def sieve(accesses: Sequence[Access], entries: int) -> int:
    """Those of the cache that serves."""
    cache: Cache[Hashable, bool] = Cache(entries, lambda value: 1)
    for key, version in accesses:
        if cache.get(key, version) is None:
            cache.put(key, True, version=version)
    return cache.misses


def lru(accesses: Sequence[Access], entries: int) -> int:
    """Least recently used first; each version is an entry of its own, which is how this cache was before."""
    held: OrderedDict[Access, None] = OrderedDict()
    misses = 0
    for access in accesses:
        if access in held:
            held.move_to_end(access)
            continue
        misses += 1
        held[access] = None
        if len(held) > entries:
            held.popitem(last=False)
    return misses


def s3_fifo(accesses: Sequence[Access], entries: int) -> int:
    """S3-FIFO (Yang et al., SOSP 2023): keys enter a small queue. What is asked for twice more while it is there, or
    again while only its key is remembered, enters the main one, where a hit buys another round."""
    small: deque[Hashable] = deque()
    main: deque[Hashable] = deque()
    ghosts: OrderedDict[Hashable, None] = OrderedDict()
    hits: dict[Hashable, int] = {}
    versions: dict[Hashable, Hashable] = {}
    most_small = max(1, int(_SMALL * entries))
    most_main = max(1, entries - most_small)

    def evict_from_main() -> None:
        while hits[key := main.popleft()] > 0:
            hits[key] -= 1
            main.append(key)
        del hits[key]

    def evict_from_small() -> None:
        while small:
            key = small.popleft()
            if hits[key] <= 1:
                del hits[key]
                ghosts[key] = None
                if len(ghosts) > most_main:
                    ghosts.popitem(last=False)
                return
            hits[key] = 0
            main.append(key)
            if len(main) > most_main:
                evict_from_main()
                return

    misses = 0
    for key, version in accesses:
        if key in hits:
            misses += versions[key] != version
            versions[key] = version
            hits[key] = min(_MOST_HITS, hits[key] + 1)
            continue
        misses += 1
        while len(hits) >= entries:
            if len(small) >= most_small or not main:
                evict_from_small()
            else:
                evict_from_main()
        (main if key in ghosts else small).append(key)
        ghosts.pop(key, None)
        hits[key], versions[key] = 0, version
    return misses


def optimum(accesses: Sequence[Access], entries: int) -> int:
    """Belady's bound: evict what is needed last, which only one who knows the future can."""
    following = [len(accesses)] * len(accesses)  # the place of the next access to the same
    last: dict[Access, int] = {}
    for i in reversed(range(len(accesses))):
        following[i] = last.get(accesses[i], len(accesses) + i)
        last[accesses[i]] = i
    held: dict[Access, int] = {}
    farthest: list[tuple[int, int]] = []  # (-next place, place)
    misses = 0
    for i, access in enumerate(accesses):
        if access not in held:
            misses += 1
            while len(held) >= entries:
                place, at = heapq.heappop(farthest)
                if held.get(accesses[at]) == -place:
                    del held[accesses[at]]
        held[access] = following[i]
        heapq.heappush(farthest, (-following[i], i))
    return misses
