"""How old a feature's value is: the time since the newest event that it counts.

A tile's events are taken to be as old as the tile's start, so an age is exact to one hop (5 minutes, an hour or a day).
Lifetime cells carry no time; they are as new as the newest tile of the same signal, where there is one.
"""

from collections.abc import Iterable

from recsys.contracts.state import EntityState
from recsys.features.aggregates import Entity, Measure, parse_cell
from recsys.features.feature_set import FeatureSet
from recsys.features.spec import Feature, Total


class Ages:
    """The ages of the features of one user and one item, as of `now_ms`. For display: it is not fast."""

    def __init__(self, features: FeatureSet, user: EntityState, item: EntityState, now_ms: int) -> None:
        self._features = features
        self._histories = user.histories
        self._now_ms = now_ms
        self._tiles: dict[tuple[Entity, str], list[int]] = {}  # aggregate → its tiles that are not zero
        self._newest: dict[
            tuple[Entity, str], int
        ] = {}  # signal → start of its newest tile, or a stored time
        for entity, state in ((Entity.USER, user), (Entity.ITEM, item)):
            self._read(entity, state)

    def of(self, feature: Feature) -> int | None:
        """Milliseconds; None: no event is behind the value, or none has happened yet."""
        times = [self._total_ms(total) for total in feature.totals]
        times += [self._history_ms(query.history.name) for query in feature.history_queries]
        newest = max(times, default=0)
        return max(0, self._now_ms - newest) if newest else None

    def _read(self, entity: Entity, state: EntityState) -> None:
        for cell, amount in state.cells.items():
            name, tile, _ = parse_cell(cell)
            aggregate = self._features.aggregate(entity, name)
            if aggregate is None or not amount:
                continue
            if aggregate.measure is Measure.TIME:
                time_ms = amount
            elif aggregate.hop_ms:
                self._tiles.setdefault((entity, name), []).append(tile)
                time_ms = tile * aggregate.hop_ms
            else:
                continue
            signal = entity, _signal(name)
            self._newest[signal] = max(self._newest.get(signal, 0), time_ms)

    def _total_ms(self, total: Total) -> int:
        window = total.window
        if not window.hop_ms:
            return self._newest.get((total.entity, total.signal.name), 0)
        latest = self._now_ms // window.hop_ms
        counted = [
            tile
            for tile in self._tiles.get((total.entity, total.aggregate_name), ())
            if window.skip <= latest - tile < window.tiles
        ]
        return max(counted, default=0) * window.hop_ms

    def _history_ms(self, name: str) -> int:
        visits = self._histories.get(name)
        return visits[-1].event_time_ms if visits else 0


def ages(
    features: FeatureSet, user: EntityState, items: Iterable[EntityState], now_ms: int
) -> list[dict[str, int | None]]:
    """One mapping per item: feature name → age in milliseconds."""
    found = []
    for item in items:
        of = Ages(features, user, item, now_ms).of
        found.append({feature.name: of(feature) for feature in features.features})
    return found


def _signal(aggregate_name: str) -> str:
    return aggregate_name.partition(".")[0]
