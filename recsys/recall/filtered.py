"""What a request's filter leaves: where it is little, all of it is ranked."""

from dataclasses import dataclass

import numpy as np

from recsys.contracts.request import Query, Rows


@dataclass(frozen=True)
class FilteredSource:
    """`recsys.pipeline.stages.Source`: eligible items, the latest rows first, for requests with a filter, and where a
    region leaves few.

    They are in no order of relevance. With the weight 0 in the merger they take the room that other channels leave: all
    of it where a filter is selective, none where the others find enough.
    """

    limit: int = 500
    name: str = "filtered"
    optional: bool = True

    def recall(self, query: Query) -> Rows:
        eligible = query.eligible
        if (
            eligible is None
            or not eligible.narrowed
            or (query.filter is None and eligible.count > self.limit)
        ):
            return np.empty(0, np.int32)
        latest = eligible.latest(self.limit + query.hidden_from_user)
        rows: Rows = latest[query.may_show(latest)][: self.limit]
        return rows
