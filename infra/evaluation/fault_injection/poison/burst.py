"""A burst of fake clicks through a real Kafka, a real worker and a real Redis: for how long it is in the popular list.

Two tables of what is popular follow the same store, one that counts what impressions explain, one that counts
everything: the control. Both are renewed at each poll, where the API renews its own twice a minute.
"""

import threading
import time
from dataclasses import dataclass

import msgspec
import numpy as np

from infra.evaluation.load.traffic import synthetic_items
from infra.evaluation.stream_rig import StreamRig
from infra.terminal import console
from recsys.contracts.event_log import EventSink
from recsys.contracts.events import Event, new_id
from recsys.contracts.impression_record import impression_record
from recsys.contracts.impressions import Impression, ShownItem
from recsys.contracts.types import MS_PER_HOUR, EventType, Topic
from recsys.features.definitions import FEATURES, WEIGHING
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue
from recsys.pipeline.trending import Trending
from recsys.recall.popular import popularity

_K = 10
_ITEMS = 100
_USERS = 1_000
_SHOWN = 10  # items of one list, the first ones most often
_TIMEOUT_S = 120.0
_AFTER_S = 2.0  # how long the lists are watched after the last click was applied


@dataclass(frozen=True)
class Burst:
    """`fakes` users, 4 % of the honest ones, click `clicks` times each on one item that few are shown."""

    fakes: int = 40
    clicks: int = 50
    seed: int = 0


def measure(config: Burst) -> dict[str, float]:
    """Seconds that the pushed item was among the ten most popular, with and without the rule.

    Raises:
        Unavailable: a server or the worker stopped.
    """
    console.print("next: a burst through Kafka, a worker and Redis")
    items = synthetic_items(_ITEMS, config.seed)
    catalogue = Catalogue(items)
    nothing = popularity(np.empty(0, np.int32), np.empty(0, np.float32), catalogue)
    columns = {trust: ItemColumns(items, FEATURES, WEIGHING if trust else None) for trust in (True, False)}
    tables = {trust: Trending(FEATURES, each, catalogue, nothing) for trust, each in columns.items()}
    ids, target = [item.item_id for item in items], _ITEMS - 1
    with StreamRig() as rig:
        rig.start_worker()
        _honest(rig.sink, ids, config.seed)
        rig.wait_until(lambda: rig.applied() == rig.appended(), _TIMEOUT_S, "honest events")
        sender = threading.Thread(target=_push, args=(rig.sink, ids[target], config))
        began = time.monotonic()
        sender.start()
        inside: dict[bool, list[float]] = {True: [], False: []}  # times at which the target was in the list
        done = None
        while done is None or time.monotonic() - done < _AFTER_S:
            states, now = rig.store.items(ids), time.monotonic()
            for trust, table in tables.items():
                columns[trust].load(zip(ids, states, strict=True))
                if target in table.refresh(int(time.time() * 1_000)).rows[:_K]:
                    inside[trust].append(now - began)
                columns[trust].weigh()
            if done is None and not sender.is_alive() and rig.applied() == rig.appended():
                done = now
            if now - began > _TIMEOUT_S:
                break
        sender.join()
    return {
        "burst_clicks": config.fakes * config.clicks,
        "burst_control_in_list_s": _length(inside[False]),
        "burst_neutralised_s": _length(inside[True]),
    }


def _length(times: list[float]) -> float:
    """From the first to the last time at which the target was in the list."""
    return times[-1] - times[0] if times else 0.0


def _honest(sink: EventSink, ids: list[str], seed: int) -> None:
    """Every user is shown a list and clicks on some of it; items in front are shown and liked more."""
    rng, now_ms = np.random.default_rng(seed), int(time.time() * 1_000)
    weight = 1 / (np.arange(len(ids)) + 5)
    for n in range(_USERS):
        at_ms = now_ms - int(rng.integers(60_000, MS_PER_HOUR))
        rows = rng.choice(len(ids), _SHOWN, replace=False, p=weight / weight.sum())
        shown = [ShownItem(ids[row], place, 0.0) for place, row in enumerate(rows.tolist())]
        features = np.zeros((_SHOWN, 1), np.float32)
        request = f"honest-{n}"
        impression = Impression(request, f"u{n}", at_ms, "drill", FEATURES.fingerprint, shown, features)
        sink.append(Topic.IMPRESSIONS, f"u{n}", impression_record(impression))
        for row in rows[rng.random(_SHOWN) < 0.1].tolist():
            _click(sink, f"u{n}", ids[row], at_ms + 5_000, request)
    sink.flush()


def _push(sink: EventSink, item: str, config: Burst) -> None:
    now_ms = int(time.time() * 1_000)
    for n in range(config.clicks):
        for fake in range(config.fakes):
            _click(sink, f"fake{fake}", item, now_ms + n, f"made-up-{fake}-{n}")
    sink.flush()


def _click(sink: EventSink, user: str, item: str, time_ms: int, request: str) -> None:
    event = Event(new_id(), EventType.CLICK, user, item, time_ms, request_id=request)
    sink.append(Topic.EVENTS, user, msgspec.json.encode(event.to_dict()))
