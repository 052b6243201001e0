"""The scorer around a graph with a known answer: click = sigmoid(feature 0), dwell = the item's number."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from onnx import TensorProto, helper

from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.contracts.events import Event
from recsys.contracts.request import Candidates, Query, no_candidates
from recsys.contracts.state import EntityState
from recsys.contracts.types import Device, EventType, Head, Item
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.features.tally import TallyReader
from recsys.ranking.calibration import (
    Calibration,
    Isotonic,
    Platt,
    read_calibrations,
    write_calibrations,
)
from recsys.ranking.scorer import RankerSession, RankScorer, TasteColumn
from recsys.ranking.taste import REST, Taste, TasteModel
from recsys.ranking.value_model import ValueModel

CLICK_ONLY = ValueModel({Head.CLICK: 1.0})


def model(inputs: tuple[str, ...] = ("history", "types", "gaps", "items", "features", "position")) -> bytes:
    types = {"features": TensorProto.FLOAT}
    shapes = {"history": [1, "l"], "types": [1, "l"], "gaps": [1, "l"], "features": ["n", 2]}
    nodes = [
        helper.make_node("Gather", ["features", "zero"], ["column"], axis=1),
        helper.make_node("Sigmoid", ["column"], ["click"]),
        helper.make_node("Mul", ["click", "half"], ["conversion"]),
        helper.make_node("Mul", ["click", "click"], ["like"]),
        helper.make_node("Cast", ["items"], ["dwell"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "ranker",
        [
            helper.make_tensor_value_info(i, types.get(i, TensorProto.INT64), shapes.get(i, ["n"]))
            for i in inputs
        ],
        [helper.make_tensor_value_info(str(h), TensorProto.FLOAT, ["n"]) for h in Head],
        [
            helper.make_tensor("zero", TensorProto.INT64, [], [0]),
            helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        ],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(built)
    content: bytes = built.SerializeToString()
    return content


def scorer(
    value_model: ValueModel = CLICK_ONLY, calibrations: dict[Head, Calibration] | None = None
) -> RankScorer:
    return RankScorer(RankerSession(model()), 10, calibrations or {}, value_model)


def candidates(column: list[float], rows: list[int]) -> Candidates:
    n = len(rows)
    return Candidates(
        rows=np.array(rows, np.int32),
        channels=("ann",),
        ranks=np.arange(n, dtype=np.int16).reshape(n, 1),
        score=np.zeros(n, np.float32),
        features=np.stack([np.array(column, np.float32), np.zeros(n, np.float32)], axis=1),
    )


QUERY = Query(request_id="r", user_id="u", k=3, now_ms=1)


def test_scores_keep_the_candidates_and_their_order() -> None:
    given = candidates([0.0, 2.0, -2.0], rows=[4, 9, 0])
    found = scorer().score(QUERY, given)
    assert found.rows is given.rows
    np.testing.assert_allclose(found.scores[Head.CLICK], [0.5, 0.8808, 0.1192], atol=1e-4)
    np.testing.assert_array_equal(found.score, found.scores[Head.CLICK])
    assert found.score.dtype == np.float32


def test_items_newer_than_the_training_are_unknown_to_the_model() -> None:
    found = scorer().score(QUERY, candidates([0.0, 0.0, 0.0], rows=[0, 9, 10]))
    assert found.scores[Head.DWELL].tolist() == [1.0, 10.0, 0.0]


def test_no_candidates_need_no_model() -> None:
    nothing = no_candidates(("ann",))
    assert scorer().score(QUERY, nothing) is nothing


def test_conversion_counts_only_after_a_click() -> None:
    found = scorer(ValueModel({Head.CLICK: 1.0, Head.CONVERSION: 2.0})).score(
        QUERY, candidates([0.0], rows=[1])
    )
    np.testing.assert_allclose(found.score, [0.5 + 2 * 0.5 * 0.25], rtol=1e-6)


@pytest.mark.parametrize("weights", [{"klick": 1.0}, {"click": 0.0}, {"click": float("nan")}, {}])
def test_a_value_model_that_orders_nothing_is_refused(weights: dict[Head, float]) -> None:
    with pytest.raises(InvalidConfig, match="value model"):
        ValueModel(weights)


def test_another_signature_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match="expected"):
        RankerSession(model(("items", "features", "position", "history", "types")))
    (tmp_path / "ranker.onnx").write_bytes(b"not a model")
    with pytest.raises(InvalidBundle):
        RankerSession(tmp_path / "ranker.onnx")


def test_calibration_changes_levels_not_order(tmp_path: Path) -> None:
    calibrations: dict[Head, Calibration] = {
        Head.CLICK: Platt(0.5, -1.0),
        Head.LIKE: Isotonic((0.0, 0.5, 1.0), (0.0, 0.1, 1.0)),
    }
    write_calibrations(tmp_path / "calibration.json", calibrations)
    assert read_calibrations(tmp_path / "calibration.json") == calibrations

    column = [-30.0, -1.0, 0.0, 1.0, 30.0]
    raw = scorer().score(QUERY, candidates(column, rows=[0, 1, 2, 3, 4]))
    found = scorer(calibrations=calibrations).score(QUERY, candidates(column, rows=[0, 1, 2, 3, 4]))
    assert (np.diff(found.scores[Head.CLICK]) > 0).all()
    np.testing.assert_allclose(found.scores[Head.CLICK][2], 1 / (1 + np.e), rtol=1e-5)  # logit 0 · .5 - 1
    np.testing.assert_allclose(found.scores[Head.LIKE][2], 0.05, rtol=1e-5)
    np.testing.assert_array_equal(found.scores[Head.DWELL], raw.scores[Head.DWELL])


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"click": {"method": "guess"}}',
        '{"clack": {"method": "platt", "slope": 1, "offset": 0}}',
        '{"click": {"method": "platt", "slope": -1, "offset": 0}}',
        '{"click": {"method": "isotonic", "raw": [0.5, 0.1], "calibrated": [0, 1]}}',
    ],
)
def test_a_broken_calibration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(InvalidBundle):
        read_calibrations(tmp_path / "calibration.json")


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA"
)
def test_cuda_without_a_build_for_it_is_refused_not_computed_elsewhere() -> None:
    with pytest.raises(InvalidConfig, match="serving-cuda"):
        RankerSession(model(), device=Device.CUDA)


@pytest.mark.parametrize(
    ("device", "expected"), [(Device.CUDA, ["preload", "session"]), (Device.CPU, ["session"])]
)
def test_cuda_libraries_of_pip_are_loaded_before_the_session(
    monkeypatch: pytest.MonkeyPatch, device: Device, expected: list[str]
) -> None:
    done: list[str] = []

    def session(*_: object, **__: object) -> None:
        done.append("session")
        raise RuntimeError("far enough")

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: done.append("preload"), raising=False)
    monkeypatch.setattr(ort, "InferenceSession", session)
    with pytest.raises(InvalidBundle, match="far enough"):
        RankerSession(b"", device=device)
    assert done == expected


class Recorder:
    """A ranker that keeps what it was asked."""

    runtime: ClassVar[str] = "recorder"

    def run(self, arrays: Mapping[str, NDArray[np.generic]]) -> dict[Head, NDArray[np.float32]]:
        self.features = arrays["features"]
        return dict.fromkeys(Head, np.full(len(self.features), 0.5, np.float32))


def test_a_taste_model_gives_the_last_features() -> None:
    columns = ItemColumns([Item("a", categories=("drama",)), Item("b", categories=("war",))], FEATURES)
    taste = Taste(
        categories=["drama", "war", REST], base=0.0, mean=[0.0] * 3, covariance=np.eye(3).tolist(),
        weights={"intercept": 0.5}, conversion={"click": 2.0}, taste=1.0, sameness=0.0,
    )  # fmt: skip
    column = TasteColumn(TasteModel(taste, FEATURES), TallyReader(FEATURES), columns.categories_of)
    ranker, user = Recorder(), EntityState()
    for second in range(5):
        event = Event(f"e{second}", EventType.CLICK, "u", "a", second, "r", context={"categories": "drama"})
        for delta in FEATURES.fold(event).user:
            user.change(delta)
    unknown = np.iinfo(np.int32).max
    given = replace(
        candidates([0.0] * 3, [0, 1, unknown]), features=np.zeros((3, FEATURES.dimension), np.float32)
    )
    RankScorer(ranker, 2, {}, CLICK_ONLY, column).score(Query("r", "u", 3, 10, user=user), given)
    assert ranker.features.shape == (3, FEATURES.dimension + 2)
    click, conversion = ranker.features[:, -2:].T
    assert click[0] > 1.0 > click[1] == click[2] == 0.5
    np.testing.assert_allclose(conversion, 2 * click)
