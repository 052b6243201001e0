"""The served form equals torch on every input, also on those that no caller should send."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts.types import Head
from recsys.models.blocks import numeric_statistics
from recsys.models.ranker import Ranker, RankerConfig, RankerData, ServedRanker
from recsys.ranking.scorer import INPUTS, RankerSession
from training.compression.quantize import quantized_tables
from training.ranker.export import export_ranker, random_inputs

pytestmark = pytest.mark.slow  # three exports of a ranker

N_ITEMS, D, LENGTH = 400, 6, 8
BITS = (32, 8, 4)  # 16: every variant of a ladder is compared in the same way


def ranker(bits: int) -> Ranker:
    torch.manual_seed(0)
    config = RankerConfig(width=8, item_buckets=300, expert_layers=(16, 8), shared_experts=1, cross_rank=4)
    fields = torch.cat([torch.zeros(1, 1, dtype=torch.int64), torch.randint(0, 5, (N_ITEMS, 1))])
    statistics = numeric_statistics(torch.randn(500, D) * 100, config.bins)
    built = Ranker(config, RankerData(N_ITEMS, D, *statistics, fields, (5,))).eval()
    return built if bits == 32 else quantized_tables(built, bits)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[ServedRanker, RankerSession, Path]]:
    folder = tmp_path_factory.mktemp("exports")
    found = {}
    for bits in BITS:
        model, path = ranker(bits), folder / f"{bits}.onnx"
        export_ranker(model, path, N_ITEMS, D, LENGTH, seed=0)
        found[bits] = ServedRanker(model).eval(), RankerSession(path), path
    return found


def compare(
    forms: dict[int, tuple[ServedRanker, RankerSession, Path]], inputs: dict[str, np.ndarray]
) -> None:
    for bits, (model, session, _) in forms.items():
        with torch.inference_mode():
            expected = model(*(torch.from_numpy(inputs[name]) for name in INPUTS))
        served = session.run(inputs)
        for head, wanted in zip(Head, expected, strict=True):
            assert np.isfinite(served[head]).all(), (bits, head)
            np.testing.assert_allclose(
                served[head], wanted.numpy(), rtol=1e-4, atol=1e-4, err_msg=f"{bits} bits, {head}"
            )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), candidates=st.integers(1, 60), length=st.integers(1, 20))
def test_every_valid_request_scores_the_same(
    forms: dict[int, tuple[ServedRanker, RankerSession, Path]], seed: int, candidates: int, length: int
) -> None:
    compare(forms, random_inputs(N_ITEMS, D, length, candidates, np.random.default_rng(seed)))


@settings(max_examples=40, deadline=None)
@given(
    item=st.integers(-(2**62), 2**62),
    code=st.integers(-(2**62), 2**62),
    value=st.floats(width=32),  # NaN, infinities and the largest numbers included
)
def test_inputs_out_of_range_are_unknown_and_never_break_a_score(
    forms: dict[int, tuple[ServedRanker, RankerSession, Path]], item: int, code: int, value: float
) -> None:
    inputs = random_inputs(N_ITEMS, D, LENGTH, 5, np.random.default_rng(0))
    inputs["items"][:2] = item
    inputs["history"][0, -1] = item
    inputs["types"][0, -1] = inputs["gaps"][0, -1] = inputs["position"][0] = code
    inputs["features"][0] = value
    compare(forms, inputs)
    if not 0 <= item <= N_ITEMS:
        unknown = {name: array.copy() for name, array in inputs.items()}
        unknown["items"][:2] = unknown["history"][0, -1] = 0
        for _, session, _ in forms.values():
            ours, theirs = session.run(inputs), session.run(unknown)
            for head in Head:
                np.testing.assert_array_equal(ours[head], theirs[head])


def test_the_users_part_of_the_served_graph_has_batch_size_one(
    forms: dict[int, tuple[ServedRanker, RankerSession, Path]],
) -> None:
    """Whatever is computed of the history alone has a leading 1, not one row a candidate."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(forms[32][2])).graph
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info
    }
    weights = {i.name for i in graph.initializer}
    of_user, of_candidates = {"history", "types", "gaps"}, {"items", "features", "position"}
    products = 0
    for node in graph.node:
        sources = {name for name in node.input if name and name not in weights}
        if sources & of_candidates:
            of_candidates |= set(node.output)
        elif sources & of_user:
            of_user |= set(node.output)
            if node.op_type in ("MatMul", "Gemm") and node.output[0] in shapes:
                products += 1
                assert "candidates" not in shapes[node.output[0]], node.name
    assert products >= 2  # keys and values, at least


@pytest.mark.parametrize("bits", BITS)
def test_a_table_is_stored_once_however_often_it_is_read(
    forms: dict[int, tuple[ServedRanker, RankerSession, Path]], bits: int
) -> None:
    """History and candidates read it, by two hashes each. A copy for each would undo the quantization."""
    stored = [i.name for i in onnx.load(forms[bits][2]).graph.initializer if i.dims and i.dims[0] == 601]
    assert len(stored) == (2 if bits in (8, 4) else 1), stored  # integers come with their scales
