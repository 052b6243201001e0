"""Lists in this process, by the request path that serves and a store in memory: what an API would answer now.

"Now" is the millisecond after the lake's newest event, so that lists of an old log do not change from day to day.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from infra.notebook.progress import Show
from recsys.bundle import Bundle
from recsys.contracts.errors import FingerprintMismatch, InvalidData, StageFailed
from recsys.contracts.filters import filter_of
from recsys.contracts.languages import Languages, Title, language_tag, title_in
from recsys.contracts.request import Answer, Query, Status
from recsys.contracts.text import CATEGORY_SEPARATOR
from recsys.contracts.types import Topic
from recsys.datasets.catalogue import users_path
from recsys.features.definitions import FEATURES
from recsys.lake.forget import forgotten_users, is_forgotten
from recsys.lake.lake import count_rows, days, read_day, table_events
from recsys.native import Native, serves
from recsys.pipeline.hydrators import UserHydrator
from recsys.store.base import Batch
from recsys.store.memory import MemoryFeatureStore
from serving.engine.artifacts import LoadOptions
from serving.engine.explain import funnel
from serving.engine.feature_source import ItemFeatures
from serving.engine.pipeline_builder import PipelineConfig
from serving.engine.runtime import USER_FEATURES, build_runtime
from serving.engine.user_attributes import UserAttributes

MAX_K = 200


class Answers:
    """A bundle, the state of users and items, and the time of the requests."""

    def __init__(self, bundle: Bundle, lake: Path, show: Show) -> None:
        """
        Raises:
            InvalidBundle: the bundle cannot be used.
            FingerprintMismatch: it was trained on other feature definitions.
        """
        if bundle.manifest.feature_fingerprint != FEATURES.fingerprint:
            raise FingerprintMismatch(f"{bundle.path}: trained on other feature definitions; fit it again")
        native = serves(Native.AUTO)
        self.store, latest_ms = _state(lake, show)
        self.now_ms = latest_ms + 1
        attributes = UserAttributes(users_path(lake), FEATURES)
        read_user = UserHydrator(self.store, attributes.of, attributes.region, name=USER_FEATURES)
        options = LoadOptions(item_features=ItemFeatures(native=native), native=native)
        self._runtime = build_runtime(bundle, PipelineConfig(read_user, native=native), options)
        self._runtime.live.apply(self.store.catalogue(), self.store.all_items())
        self._runtime.live.refresh(self.now_ms)

    def recommend(
        self,
        user_id: str,
        k: int,
        exclude: Collection[str],
        asked: str = "",
        region: str = "",
        language: str = "",
    ) -> list[dict[str, Any]]:
        """At most k items with their place (from 1) and why they are candidates, the best first.

        Args:
            asked: a filter; empty: none.
            language: of the titles, as a BCP 47 tag; empty: the default titles.

        Raises:
            InvalidFilter: it is no expression, or asks for what the catalogue does not have.
            InvalidData: the language is not a tag.
            StageFailed: a part of the request path failed.
        """
        title = title_in(_languages(language))
        answer = self._answer(user_id, k, exclude, asked, region)
        shown = answer.candidates
        lines = []
        for place, row in enumerate(shown.rows.tolist()):
            channels = CATEGORY_SEPARATOR.join(shown.channels_of(place))
            line = self._item(row, float(shown.score[place]), title)
            lines.append({"user_id": user_id, "rank": place + 1, **line, "channels": channels})
        return lines

    def similar(
        self, item_id: str, k: int, asked: str = "", region: str = "", language: str = ""
    ) -> list[dict[str, Any]]:
        """At most k neighbours of an item, as `GET /v1/items/ID/similar` gives them.

        Raises:
            InvalidFilter: as `recommend`.
            InvalidData: the catalogue does not have the item, or the language is not a tag.
        """
        row = self._runtime.catalogue.rows.get(item_id)
        if row is None:
            raise InvalidData(f"item {item_id!r} is not in the catalogue")
        k, parsed, title = _checked(k), filter_of(asked), title_in(_languages(language))
        rows, scores = self._runtime.artifacts.similar(row, k, self.now_ms, parsed, region)
        found = zip(rows.tolist(), scores.tolist(), strict=True)
        return [
            {"similar_to": item_id, "rank": place, **self._item(near, score, title)}
            for place, (near, score) in enumerate(found, start=1)
        ]

    def explain(self, user_id: str, k: int, asked: str = "", region: str = "") -> dict[str, Any]:
        """The funnel of a list, as `POST /v1/recommendations?explain=true` gives it."""
        return funnel(self._runtime, self._answer(user_id, k, (), asked, region, explain=True), self.store)

    def _answer(
        self,
        user_id: str,
        k: int,
        exclude: Collection[str],
        asked: str,
        region: str,
        explain: bool = False,
    ) -> Answer:
        query = Query(
            request_id="notebook",
            user_id=user_id,
            k=_checked(k),
            now_ms=self.now_ms,
            excluded_items=frozenset(exclude),
            filter=filter_of(asked),
            region=region,
            explain=explain,
        )
        answer = self._runtime.pipeline.answer(query)
        for outcome in answer.outcomes:
            if outcome.status is not Status.OK:  # nothing in this process may be away
                raise StageFailed(outcome.stage, outcome.error, answer.outcomes)
        return answer

    def _item(self, row: int, score: float, title: Title) -> dict[str, Any]:
        item = self._runtime.catalogue.item(row)
        categories = CATEGORY_SEPARATOR.join(item.categories)
        return {"item_id": item.item_id, "score": score, "title": title(item), "categories": categories}


def _state(lake: Path, show: Show) -> tuple[MemoryFeatureStore, int]:
    """A store that has folded every event of the lake but those of forgotten users, and the newest one's time."""
    store = MemoryFeatureStore(FEATURES)
    claimed = store.claim(Topic.EVENTS, 0, "lake")
    done, latest_ms, total, forgotten = 0, 0, count_rows(lake), forgotten_users(lake)
    for day in days(lake):
        events = [
            event
            for event in table_events(read_day(lake, day))
            if not is_forgotten(forgotten, event.user_id, event.event_time_ms)
        ]
        if not events:
            continue
        show("read the log", done, total)
        end, latest_ms = done + len(events), events[-1].event_time_ms
        store.apply(Batch(Topic.EVENTS, 0, claimed.epoch, done, end, latest_ms, range(done, end), events))
        done = end
    return store, latest_ms


def _languages(language: str) -> Languages:
    try:
        return (language_tag(language),) if language else ()
    except ValueError as error:
        raise InvalidData(f"language: {error}") from None


def _checked(k: int) -> int:
    if not 1 <= k <= MAX_K:
        raise InvalidData(f"k: {k} items; from 1 to {MAX_K} can be asked for")
    return k
