"""One list of candidates from many channels: a quota for each, the rest by reciprocal rank fusion."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from recsys.request import ABSENT, Candidates, Rows, no_candidates

RRF_K = 60  # Cormack, Clarke, Büttcher 2009: fusion by the sum of 1 / (60 + rank)
_MAX_RANK = np.iinfo(np.int16).max


@dataclass(frozen=True)
class QuotaMerger:
    """Each channel's first `quotas[channel]` items are in; the best fused ranks fill up to `limit`.

    `score` of the candidates is the fused rank, sum over channels of weight / (60 + rank from 1), so the order
    is sensible even where no scorer comes after. Candidates come best first; ties keep the order of channels.
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
        rows, first = np.unique(np.concatenate(list(recalled.values())), return_index=True)
        ranks = np.full((len(rows), len(channels)), ABSENT, np.int16)
        fused = np.zeros(len(rows), np.float32)
        guaranteed = np.zeros(len(rows), bool)
        for column, (channel, returned) in enumerate(recalled.items()):
            place = np.searchsorted(rows, returned)
            rank = np.arange(len(returned))
            ranks[place, column] = np.minimum(rank, _MAX_RANK)
            fused[place] += np.float32(self.weights.get(channel, 1.0)) / (RRF_K + 1 + rank)
            guaranteed[place[: self.quotas.get(channel, 0)]] = True
        kept = np.lexsort((first, -fused, ~guaranteed))[: max(self.limit, int(guaranteed.sum()))]
        order = kept[np.lexsort((first[kept], -fused[kept]))]
        return Candidates(rows[order].astype(np.int32), channels, ranks[order], fused[order])
