"""The device's model against torch, for random weights, sizes and inputs; its size; and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import Head
from recsys.models.golden import golden_part
from recsys.models.onnx_session import open_session
from recsys.models.ranker import Ranker, ServedRanker
from recsys.ranking.calibration import (
    Calibration,
    Constant,
    Isotonic,
    Platt,
    read_calibrations,
    write_calibrations,
)
from recsys.ranking.compiled import GOLDEN, KERNEL
from recsys.ranking.edge import EDGE, OUTPUTS, EdgeTable, edge_inputs, quantized, server_scores
from recsys.ranking.scorer import INPUTS
from recsys.ranking.value_model import ValueModel
from tests.recsys.ranking.students import student
from training.compression.export_edge import edge_model, export_edge
from training.compression.quantize import half_weights
from training.ranker.export import random_inputs
from training.ranker.kernel import kernel_arrays

N_ITEMS, D = 300, 75
VALUE = ValueModel({Head.CLICK: 1.0, Head.CONVERSION: 3.0, Head.DWELL: 0.05})
KNOTS = (0.0, 0.1, 0.25, 0.6, 1.0)
CALIBRATIONS: dict[Head, Calibration] = {
    Head.CLICK: Isotonic(KNOTS, (0.0, 0.02, 0.3, 0.3, 1.0)),
    Head.CONVERSION: Platt(0.7, -2.0),
    Head.LIKE: Constant(0.1),
}


def arrays_of(ranker: Ranker) -> dict[str, NDArray[Any]]:
    arrays = kernel_arrays(ranker)
    assert arrays is not None
    return arrays


def raw_scores(ranker: Ranker, inputs: dict[str, NDArray[Any]]) -> dict[Head, NDArray[np.float32]]:
    with torch.inference_mode():
        found = ServedRanker(ranker).eval()(*(torch.from_numpy(inputs[name]) for name in INPUTS))
    return {head: scores.numpy() for head, scores in zip(Head, found, strict=True)}


def assert_same(ranker: Ranker, calibrations: dict[Head, Calibration], *sizes: tuple[int, int, int]) -> None:
    """`sizes`: seed, events, candidates."""
    arrays = arrays_of(ranker)
    table, session = EdgeTable(arrays), open_session(EDGE, edge_model(arrays, calibrations))
    for seed, events, candidates in sizes:
        inputs = random_inputs(N_ITEMS, D, events, candidates, np.random.default_rng(seed))
        inputs["items"][::7] += 10_000  # newer than the model
        inputs["history"][0, ::5] = 10_000
        wanted = server_scores(raw_scores(ranker, inputs), calibrations, VALUE)
        found = session.run(OUTPUTS, edge_inputs(table, inputs, VALUE))
        for name, scores in zip(OUTPUTS, found, strict=True):
            np.testing.assert_allclose(scores, wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)


STUDENT = student(0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.integers(1, 130))
def test_it_scores_as_the_server_does(seed: int, events: int, candidates: int) -> None:
    """Unknown items, empty histories, NaN and infinities are among `random_inputs`."""
    assert_same(STUDENT, {}, (seed, events, candidates))


@pytest.mark.parametrize(
    "shape",
    [{"item_buckets": 0}, {"offset": True}, {"expert_layers": (40, 30, 20), "width": 12, "cross_rank": 5}],
)
def test_every_shape_of_the_student_is_known(shape: dict[str, Any]) -> None:
    assert_same(student(1, **shape), {}, (0, 1, 1), (1, 50, 240))


def test_its_heads_are_calibrated() -> None:
    assert_same(STUDENT, CALIBRATIONS, (0, 50, 100), (1, 1, 7))


@pytest.mark.parametrize("shape", [{}, {"item_buckets": 0}])
def test_rows_are_the_items_as_the_model_sees_them(shape: dict[str, Any]) -> None:
    ranker = student(2, **shape)
    numbers = np.arange(-3, N_ITEMS + 5)
    found = EdgeTable(arrays_of(ranker)).rows(numbers)
    with torch.inference_mode():
        wanted = torch.cat(ranker.items(torch.from_numpy(numbers)), dim=1).numpy()
    np.testing.assert_allclose(found.rows * found.scales[:, None], wanted, atol=np.abs(wanted).max() / 30_000)
    # 16 bits of each number and a scale
    assert found.rows[0].nbytes + found.scales[0].nbytes == 2 * wanted.shape[1] + 4


def test_an_item_without_a_number_is_no_padding() -> None:
    found = quantized(np.zeros((2, 5), np.float32))
    assert not found.rows.any()
    assert (found.scales > 0).all()


def test_half_weights_are_sent_in_half_the_bytes_and_two_trainings_differ_in_numbers_alone() -> None:
    full, first, second = (
        edge_model(arrays_of(ranker), {})
        for ranker in (STUDENT, half_weights(STUDENT), half_weights(student(3)))
    )
    assert len(first) < 0.6 * len(full)
    assert len(first) == len(second)
    assert_same(half_weights(STUDENT), {}, (0, 50, 100))


def test_what_no_half_number_can_hold_is_its_largest() -> None:
    ranker = student(4)
    ranker.wide.bias.data[0] = 1e6
    assert half_weights(ranker).wide.bias[0].item() == torch.finfo(torch.float16).max
    assert ranker.wide.bias[0].item() == 1e6  # the given one is unchanged


def write_ranker(folder: Path) -> None:
    """What training leaves, without its export by tracing."""
    save_file(arrays_of(STUDENT), folder / KERNEL)
    inputs = random_inputs(N_ITEMS, D, 20, 30, np.random.default_rng(0))
    golden = {f"ranker/in/{name}": array for name, array in inputs.items()}
    golden |= {f"ranker/out/{head}": scores for head, scores in raw_scores(STUDENT, inputs).items()}
    save_file(golden, folder / GOLDEN)
    write_calibrations(folder / "calibration.json", CALIBRATIONS)


def test_a_bundle_gets_the_model_and_what_a_device_checks_it_by(tmp_path: Path) -> None:
    write_ranker(tmp_path)
    before = load_file(tmp_path / GOLDEN)
    export_edge(tmp_path)
    golden = load_file(tmp_path / GOLDEN)
    assert golden.keys() > before.keys()
    found = open_session(EDGE, tmp_path / EDGE).run(OUTPUTS, golden_part(golden, "edge/in/"))
    for name, scores in zip(OUTPUTS, found, strict=True):
        np.testing.assert_allclose(scores, golden[f"edge/out/{name}"], rtol=1e-5, atol=1e-5)
        assert len(scores) < 10  # a device runs them at each start
    assert read_calibrations(tmp_path / "calibration.json") == CALIBRATIONS


def test_a_model_that_scores_otherwise_is_not_written(tmp_path: Path) -> None:
    write_ranker(tmp_path)
    golden = load_file(tmp_path / GOLDEN)
    golden["ranker/out/click"] = golden["ranker/out/click"] + np.float32(0.01)
    save_file(golden, tmp_path / GOLDEN)
    with pytest.raises(InvalidBundle, match="click differs"):
        export_edge(tmp_path)
    assert not (tmp_path / EDGE).exists()
