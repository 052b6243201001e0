"""Merge all channels into one list of candidates: a quota for each, the rest by reciprocal rank fusion."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from recsys.contracts.request import ABSENT, Candidates, Rows, no_candidates
from recsys.recall.grouping import first_seen

RRF_K = 60  # Cormack, Clarke, Büttcher 2009: fusion by the sum of 1 / (60 + rank)
_MAX_RANK = np.iinfo(np.int16).max


@dataclass(frozen=True)
class QuotaMerger:
    """The first `quotas[channel]` items of each channel are included; the best fused ranks fill up to `limit`.

    `score` is the fused rank, the sum over channels of weight / (60 + rank from 1), so the order is sensible even
    without a scorer. Candidates come best first; ties keep the order of channels.
    """

    quotas: Mapping[str, int]
    limit: int = 500
    weights: Mapping[str, float] = field(default_factory=dict)  # 1 where not given
    name: str = "merge"
    optional: bool = False

    def merge(self, recalled: Mapping[str, Rows]) -> Candidates:
        channels = tuple(recalled)
        if not any(len(rows) for rows in recalled.values()):
            return no_candidates(channels)
        rows, places = first_seen(np.concatenate(list(recalled.values())))
        ranks = np.full((len(rows), len(channels)), ABSENT, np.int16)
        fused = np.zeros(len(rows), np.float32)
        guaranteed = np.zeros(len(rows), bool)
        start = 0
        for column, (channel, returned) in enumerate(recalled.items()):
            place = places[start : start + len(returned)]
            rank = np.arange(len(returned), dtype=np.int32)
            ranks[place, column] = np.minimum(rank, _MAX_RANK)
            fused[place] += np.float32(self.weights.get(channel, 1.0)) / (rank + np.float32(RRF_K + 1))
            guaranteed[place[: self.quotas.get(channel, 0)]] = True
            start += len(returned)
        order = np.argsort(-fused, kind="stable")
        if len(order) > self.limit:
            sure = guaranteed[order]
            room = max(self.limit - int(sure.sum()), 0)
            order = order[sure | (np.cumsum(~sure) <= room)]
        return Candidates(rows[order], channels, ranks.take(order, axis=0), fused[order])
