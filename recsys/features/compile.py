"""A feature set as tables for the compiled code (`recsys.native`), which then makes the same matrix as `assemble`.

Each kind of feature becomes an operation on columns of integers. A kind that has none keeps the set on the Python path.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import EntityState
from recsys.features import kinds
from recsys.features.aggregates import Entity, Split
from recsys.features.assemble import ItemSide, assemble, distinct_buckets
from recsys.features.feature_set import FeatureSet, runs
from recsys.features.spec import Feature, HistoryQuery, Match, Total, number
from recsys.features.user_totals import UserTotals
from recsys.native import core

_SPLITS = (Split.CATEGORY, Split.CREATOR, Split.ITEM)  # in the order of features.hpp


class NotCompiled(Exception):
    """There is no compiled part, or it does not know a kind of feature; the Python path computes the set."""


# `recsys.features.assemble.assemble` of one feature set
Assemble = Callable[
    [EntityState, Mapping[str, str], ItemSide, NDArray[np.int32], int, Mapping[str, str]], NDArray[np.float32]
]


def assembler(features: FeatureSet, native: bool) -> Assemble:
    """Compiled if `native` and all kinds are known, else in Python."""
    if native:
        with suppress(NotCompiled):
            return CompiledFeatures(features).assemble
    return partial(assemble, features)


class _Kind(IntEnum):
    """`Kind` in features.hpp."""

    (
        COUNT,
        RATIO,
        MEAN,
        AFFINITY,
        LIFT,
        VISIT_COUNT,
        VISIT_RECENCY,
        RECENCY,
        ITEM_AGE,
        NUMBER,
        HOUR,
        WEEKDAY,
    ) = range(12)


class _Space(IntEnum):
    """`Space` in features.hpp: which column an operand is."""

    PLAIN, CATEGORY, CREATOR, ITEM, TICKING, CREATED, NUMBERS, QUERY = range(8)


_BY_SPLIT = {Split.CATEGORY: _Space.CATEGORY, Split.CREATOR: _Space.CREATOR, Split.ITEM: _Space.ITEM}
_MATCHES = (Match.ANY, Match.ITEM, Match.CATEGORY)  # by number, as in features.hpp
Operand = tuple[int, int]


class _Operation(NamedTuple):
    """`Feature` in features.hpp: what fills one column."""

    kind: int
    column: int
    operands: list[Operand]
    numbers: list[float]


class CompiledFeatures:
    """Makes the matrix of `recsys.features.assemble.assemble`, bit for bit."""

    def __init__(self, features: FeatureSet) -> None:
        """
        Raises:
            NotCompiled: see there.
        """
        if core is None:
            raise NotCompiled("recsys.native was not built")
        self._features = features
        totals = UserTotals(features)
        self._coding, self._plan = totals.coding, totals.plan()
        self._histories = [
            *dict.fromkeys(q.history.name for f in features.features for q in f.history_queries)
        ]
        self._queries: list[HistoryQuery] = []
        self._ticking: list[Total] = []
        self._attributes: list[kinds.Attribute] = []
        steady, columns = features.placed(lambda f: f.entity is Entity.ITEM and not f.ticking)
        shared, _ = features.placed(lambda f: f.entity in (Entity.USER, Entity.CONTEXT))
        paired = [f for f in features.features if f not in {*steady, *shared}]
        self._program = core.FeatureProgram(
            dimension=features.dimension,
            totals=self._plan.totals,
            size=self._plan.size,
            plain=len(self._plan.plain),
            tables=[(self._plan.bases[split], len(self._plan.members[split])) for split in _SPLITS],
            shared=self._operations(shared),
            paired=self._operations(paired),
            queries=[
                (self._histories.index(q.history.name), _MATCHES.index(q.match), q.newest)
                for q in self._queries
            ],
            steady=[(there.start, here.start, there.stop - there.start) for there, here in runs(columns)],
            category_buckets=distinct_buckets,
        )

    def assemble(
        self,
        user: EntityState,
        user_attributes: Mapping[str, str],
        items: ItemSide,
        rows: NDArray[np.int32],
        now_ms: int,
        context: Mapping[str, str],
    ) -> NDArray[np.float32]:
        """See `recsys.features.assemble.assemble`."""
        codes, amounts = self._coding.pack(user.cells)
        catalogue = items.catalogue
        steady = items.values(rows, now_ms)  # before the ticking totals, which it brings up to date
        texts = {Entity.USER: user_attributes, Entity.CONTEXT: context}
        matrix: NDArray[np.float32] = self._program.assemble(
            codes=codes,
            amounts=amounts,
            histories=[user.histories.get(name, []) for name in self._histories],
            numbers=[
                number(texts[a.entity].get(a.attribute), a.default, a.vocabulary) for a in self._attributes
            ],
            rows_by_id=catalogue.rows_by_id,
            categories=catalogue.categories,
            creators=catalogue.creators,
            ids=catalogue.ids,
            category_counts=catalogue.category_counts,
            created_ms=catalogue.created_ms,
            steady=steady,
            ticking=[items.total(total, rows) for total in self._ticking],
            rows=rows,
            now_ms=now_ms,
        )
        return matrix

    def _operations(self, features: Iterable[Feature]) -> list[_Operation]:
        return [
            operation._replace(column=self._features.names.index(name))
            for feature in features
            for name, operation in zip(feature.columns, self._compiled(feature), strict=True)
        ]

    def _compiled(self, f: Feature) -> Iterator[_Operation]:
        """One operation per column."""
        totals = [self._total(total) for total in f.totals]
        match f:
            case kinds.Count():
                for x, total in zip(totals, f.totals, strict=True):
                    yield _operation(_Kind.COUNT, [x], total.unit)
            case kinds.Ratio():
                for pair, units in zip(_groups(totals, 2), _units(f, 2), strict=True):
                    yield _operation(_Kind.RATIO, pair, *units, f.alpha, f.alpha + f.beta)
            case kinds.Mean():
                yield from (_operation(_Kind.MEAN, x, f.amount.scale, f.default) for x in _groups(totals, 2))
            case kinds.Affinity():
                yield from (_operation(_Kind.AFFINITY, pair, f.default) for pair in _groups(totals, 2))
            case kinds.Lift():
                for four, units in zip(_groups(totals, 4), _units(f, 4), strict=True):
                    yield _operation(_Kind.LIFT, four, *units, f.alpha, f.alpha + f.beta, f.strength)
            case kinds.VisitCount():
                yield _operation(_Kind.VISIT_COUNT, [self._query(q) for q in f.history_queries])
            case kinds.VisitRecency():
                yield _operation(_Kind.VISIT_RECENCY, [self._query(f.query)], f.default)
            case kinds.Recency():
                yield from (_operation(_Kind.RECENCY, [x], f.default) for x in totals)
            case kinds.ItemAge():
                yield _operation(_Kind.ITEM_AGE, [(_Space.CREATED, 0)], f.default)
            case kinds.Attribute():
                yield _operation(_Kind.NUMBER, [(_Space.NUMBERS, _place(self._attributes, f))])
            case kinds.HourOfDay():
                yield _operation(_Kind.HOUR, [])
            case kinds.Weekday():
                yield _operation(_Kind.WEEKDAY, [])
            case _:
                raise NotCompiled(f"{f.name}: features of the kind {f.kind} are not compiled")

    def _total(self, total: Total) -> Operand:
        if total.entity is Entity.ITEM:
            return _Space.TICKING, _place(self._ticking, total)
        if total.split is Split.NONE:
            return _Space.PLAIN, self._plan.plain[total]
        return _BY_SPLIT[total.split], self._plan.members[total.split][total]

    def _query(self, query: HistoryQuery) -> Operand:
        return _Space.QUERY, _place(self._queries, query)


def _operation(kind: _Kind, operands: Iterable[Operand], *numbers: float) -> _Operation:
    return _Operation(kind, 0, [*operands], [*map(float, numbers)])


def _units(feature: Feature, reads: int) -> list[tuple[int, int]]:
    """Of each column, the units of part and whole, the first two of the totals that it reads."""
    units = [total.unit for total in feature.totals]
    return list(zip(units[::reads], units[1::reads], strict=True))


def _groups(operands: Sequence[Operand], n: int) -> Iterable[Sequence[Operand]]:
    return (operands[i : i + n] for i in range(0, len(operands), n))


def _place(known: list[Any], one: Any) -> int:
    """Where `one` is in the list, at the end if it was not."""
    if one not in known:
        known.append(one)
    return known.index(one)
