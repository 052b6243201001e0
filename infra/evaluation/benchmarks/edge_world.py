"""A simulated shop for `recsys bench edge`: its log, the student that it has trained, lists of its server and a
device's orders of them.

The server is the request path that serving composes, in this process. The device has what the API sends (`edge.onnx`
and a `DeviceList`) and does what the console's worker does (serving/web/edge/list.js).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from safetensors.numpy import save_file

from infra.evaluation.case_study.learn import read_log, write_examples
from recsys.bundle import Bundle
from recsys.contracts.events import Event, item_context
from recsys.contracts.request import Query
from recsys.contracts.state import EntityState
from recsys.contracts.types import Diversity, EventType, Head, Topic
from recsys.features.definitions import ENGAGED_VISITS, FEATURES
from recsys.lake.lake import read_events, write_parquet
from recsys.models.encoding import TYPE_NUMBERS, gap_buckets
from recsys.models.onnx_session import open_session
from recsys.native import core
from recsys.pipeline.hydrators import UserHydrator
from recsys.ranking.edge import EDGE, OUTPUTS, VALUE
from recsys.rerank.reranker import RerankConfig
from recsys.simulation.actions import row_of
from recsys.store.base import Batch
from recsys.store.memory import MemoryFeatureStore
from serving.engine.artifacts import LoadOptions
from serving.engine.device_list import MOST, DeviceList, device_list
from serving.engine.feature_source import ItemFeatures
from serving.engine.pipeline_builder import PathConfig, PipelineConfig
from serving.engine.runtime import USER_FEATURES, build_runtime
from training import publish
from training.compression.ladder import STUDENT
from training.compression.quantize import half_weights, quantized_tables
from training.features.sequences import sequences
from training.publish import PublishConfig
from training.ranker import train as train_ranker
from training.ranker.artifacts import GOLDEN, ONNX, trained_ranker
from training.ranker.export import export_ranker
from training.ranker.kernel import write_kernel
from training.ranker.loop import LoopConfig
from training.ranker.train import RankerTraining
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig

# by the predicted click, which is what is counted
_PATH = PathConfig(
    candidates=MOST, rerank=RerankConfig(diversity=Diversity.NONE), weights=((Head.CLICK, 1.0),)
)
_NETWORK = replace(STUDENT, item_buckets=0)  # a small catalogue needs no hashing


class Act(NamedTuple):
    """What a user did to an item; `row`: of the world."""

    row: int
    type: EventType
    at_ms: int


@dataclass(frozen=True)
class Epochs:
    recall: int = 3
    rank: int = 4


def train(lake: Path, home: Path, epochs: Epochs, seed: int) -> Bundle:
    """Two-tower and student of the log, as `recsys train all --compress` makes them, but for the teacher: the student
    learns from the clicks alone."""
    log, items = read_log(lake), lake / "items" / "items.parquet"
    write_parquet(home / "sequences" / "part.parquet", sequences(log))
    towers = TwoTowerConfig(
        sequences=home / "sequences",
        items=items,
        work=home / "checkpoints",
        seed=seed,
        epochs=epochs.recall,
        threads=1,
    )
    export_two_tower.main(train_two_tower.main(towers), home / "two_tower")
    write_examples(log, items, home / "examples", days=7, nightly=False)
    ranker = home / "ranker"
    train_ranker.main(
        RankerTraining(
            n_features=FEATURES.dimension,
            examples=home / "examples",
            items=items,
            out=ranker,
            checkpoints=home / "checkpoints",
            model=_NETWORK,
            loop=LoopConfig(epochs=epochs.rank, seed=seed),
        )
    )
    student = half_weights(quantized_tables(trained_ranker(ranker), bits=8))
    length = ENGAGED_VISITS.size
    golden = export_ranker(
        student, ranker / ONNX, student.data.n_items, student.data.n_features, length, seed
    )
    save_file(golden, ranker / GOLDEN)
    write_kernel(student, ranker)
    return publish.main(
        PublishConfig(lake=lake, two_tower=home / "two_tower", ranker=ranker, bundles=home / "bundles")
    )


class Server:
    """Lists for a user who has done some acts since the log ended. The same question is answered once."""

    def __init__(self, bundle: Bundle, lake: Path, now_ms: int) -> None:
        self._store = MemoryFeatureStore(FEATURES)
        _apply(self._store, list(read_events(lake)), now_ms)
        self._acts: Sequence[Event] = ()
        native = core is not None
        self._runtime = build_runtime(
            bundle,
            PipelineConfig(UserHydrator(self, name=USER_FEATURES), path=_PATH, native=native),
            LoadOptions(item_features=ItemFeatures(native=native), native=native),
        )
        ids = self._runtime.catalogue.ids(range(len(self._runtime.catalogue)))
        self._runtime.live.apply((), zip(ids, self._store.items(ids), strict=True))
        self._runtime.live.refresh(now_ms)
        self._device = open_session(EDGE, bundle.file(EDGE).read_bytes())
        self._lists: dict[tuple[int, tuple[Act, ...]], ListOnDevice] = {}

    def user(self, user_id: str) -> EntityState:
        """As a `FeatureStore`: of the log, and what the user has done since."""
        state = self._store.user(user_id)
        for event in self._acts:
            folded = FEATURES.fold(event)
            for change in folded.user:
                state.change(change)
            for history, visit in folded.visits:
                state.visit(history, visit)
        return state

    def list_for(self, user: int, acts: tuple[Act, ...], now_ms: int) -> "ListOnDevice":
        """`user`: row of the world. `now_ms`: when the first of these acts could happen."""
        found = self._lists.get((user, acts))
        if found is None:
            self._acts = [self._event(user, act) for act in acts]
            at_ms = acts[-1].at_ms if acts else now_ms
            query = Query(f"edge-{user}", f"u{user}", k=1, now_ms=at_ms, for_device=True)
            sent = device_list(self._runtime, self._runtime.pipeline.answer(query))
            assert sent is not None  # noqa: S101 - the bundle has a model, and nothing fails in process
            found = self._lists[user, acts] = ListOnDevice(sent, self._device)
        return found

    def forget(self) -> None:
        """Free what was answered, when a user's session is over."""
        self._lists.clear()

    def _event(self, user: int, act: Act) -> Event:
        catalogue = self._runtime.catalogue
        item = catalogue.item(catalogue.rows[f"i{act.row}"])
        context = item_context({}, item.categories, item.creator)
        return Event(
            f"{act.type}-{act.at_ms}", act.type, f"u{user}", item.item_id, act.at_ms, context=context
        )


class ListOnDevice:
    """A list as a device has it; `rows`: of the world, in the server's order."""

    def __init__(self, sent: DeviceList, session: ort.InferenceSession) -> None:
        self._sent = sent
        self._session = session
        self._orders: dict[tuple[Act, ...], list[int]] = {}
        self.rows = [row_of(item.item_id) for item in sent.items]

    def after(self, acts: tuple[Act, ...]) -> list[int]:
        """Rows in the order after acts that the server did not know, without their items."""
        if acts not in self._orders:
            places = {row: place for place, row in enumerate(self.rows)}
            known = [(places[act.row], act) for act in acts if act.row in places and act.type in _IN_HISTORY]
            score = self._score
            if known:
                found = self._session.run(
                    OUTPUTS, with_acts(self._inputs, self._sent.history.newest_ms, known)
                )
                score = score + dict(zip(OUTPUTS, found, strict=True))[VALUE] - self._value
            gone = {act.row for act in acts}
            order = np.argsort(-score, kind="stable").tolist()
            self._orders[acts] = [self.rows[place] for place in order if self.rows[place] not in gone]
        return self._orders[acts]

    @cached_property
    def _score(self) -> NDArray[np.float32]:
        return np.array([item.score for item in self._sent.items], np.float32)

    @cached_property
    def _value(self) -> NDArray[np.float32]:
        scores = np.frombuffer(self._sent.scores, np.float32).reshape(len(OUTPUTS), -1)
        return dict(zip(OUTPUTS, scores, strict=True))[VALUE]

    @cached_property
    def _inputs(self) -> dict[str, NDArray[Any]]:
        sent, n = self._sent, len(self._sent.items)
        features = np.tile(np.frombuffer(sent.features.shared, np.float32), (n, 1))
        varying = np.frombuffer(sent.features.varying, np.float32).reshape(-1, n)
        features[:, sent.features.columns] = varying.T
        return {
            "history_rows": np.frombuffer(sent.history.rows, np.int16).reshape(len(sent.history.types), -1),
            "history_scales": np.frombuffer(sent.history.scales, np.float32),
            "types": np.array(sent.history.types, np.int32),
            "gaps": np.array(sent.history.gaps, np.int32),
            "rows": np.frombuffer(sent.rows, np.int16).reshape(n, -1),
            "scales": np.frombuffer(sent.scales, np.float32),
            "features": features,
            "weights": np.array(sent.weights, np.float32),
        }


_IN_HISTORY = ENGAGED_VISITS.types


def with_acts(
    given: Mapping[str, NDArray[Any]], newest_ms: int, acts: Sequence[tuple[int, Act]]
) -> dict[str, NDArray[Any]]:
    """Inputs of the model at the time of the last of the acts, which are in the history then.

    Args:
        newest_ms: time of the newest event of the history; 0: there is none.
        acts: at least one, oldest first, each with the place of its item.
    """
    before = len(given["types"]) if newest_ms else 0
    places = [place for place, _ in acts]
    times = np.array([newest_ms, *(act.at_ms for _, act in acts), acts[-1][1].at_ms], np.int64)
    gaps = gap_buckets(times[:-1], times[1:]).astype(np.int32)
    numbers = np.array([TYPE_NUMBERS[act.type] for _, act in acts], np.int32)
    history = {
        "history_rows": (given["history_rows"][:before], given["rows"][places]),
        "history_scales": (given["history_scales"][:before], given["scales"][places]),
        "types": (given["types"][:before], numbers),
        "gaps": (given["gaps"][: before - 1], gaps) if before else (gaps[1:],),
    }
    newest = slice(-ENGAGED_VISITS.size, None)
    return {**given, **{name: np.concatenate(parts)[newest] for name, parts in history.items()}}


def _apply(store: MemoryFeatureStore, events: Sequence[Event], now_ms: int) -> None:
    epoch, n = store.claim(Topic.EVENTS, 0, "simulated").epoch, len(events)
    store.apply(Batch(Topic.EVENTS, 0, epoch, 0, n, now_ms, range(n), events))
