"""The compiled ranker against torch, for random weights, sizes and inputs; and what it refuses."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file
from structlog.testing import capture_logs

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import Head
from recsys.models.ranker import Ranker, ServedRanker
from recsys.ranking.compiled import GOLDEN, KERNEL, ONNX, CompiledRanker, open_ranker, reproduces
from recsys.ranking.scorer import INPUTS
from tests.recsys.native.built import needs_native
from tests.recsys.ranking.students import student
from training.ranker.export import export_ranker, random_inputs
from training.ranker.kernel import kernel_arrays, write_kernel

pytestmark = needs_native
Arrays = dict[str, NDArray[Any]]


def _torch(ranker: Ranker, inputs: Arrays) -> dict[Head, NDArray[np.float32]]:
    with torch.inference_mode():
        found = ServedRanker(ranker).eval()(*(torch.from_numpy(inputs[name]) for name in INPUTS))
    return {head: scores.numpy() for head, scores in zip(Head, found, strict=True)}


def _compiled(ranker: Ranker) -> CompiledRanker:
    arrays = kernel_arrays(ranker)
    assert arrays is not None
    return CompiledRanker(arrays)


def _assert_same(ranker: Ranker, compiled: CompiledRanker, inputs: Arrays) -> None:
    found, expected = compiled.run(inputs), _torch(ranker, inputs)
    for head, wanted in expected.items():
        np.testing.assert_allclose(found[head], wanted, rtol=1e-4, atol=1e-4, err_msg=head)


RANKER = student(0)


@pytest.fixture(scope="module")
def compiled() -> CompiledRanker:
    return _compiled(RANKER)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 120), st.integers(1, 130))
def test_it_scores_as_torch_does(compiled: CompiledRanker, seed: int, events: int, candidates: int) -> None:
    """Unknown items, empty histories, NaN and infinities are among `random_inputs`."""
    inputs = random_inputs(300, 75, max(events, 1), candidates, np.random.default_rng(seed))
    inputs["items"][::7] += 10_000  # newer than the model
    inputs["history"][0, ::5] = 10_000
    inputs["position"] = np.arange(candidates) - 3
    _assert_same(RANKER, compiled, inputs)


@pytest.mark.parametrize(
    ("features", "shape"),
    [
        (1, {}),
        (8, {"width": 8, "cross_rank": 8}),
        (74, {"width": 24, "expert_layers": (48, 32)}),
        (80, {"expert_layers": (10,), "cross_rank": 5, "position_width": 3}),
        (75, {"expert_layers": (40, 30, 20), "width": 12}),
        (75, {"item_buckets": 0}),
        (75, {"offset": True}),
    ],
)
def test_every_size_of_the_shape_is_known(features: int, shape: dict[str, Any]) -> None:
    ranker = student(1, n_features=features, **shape)
    compiled = _compiled(ranker)
    assert compiled.n_features == features
    for events, candidates in ((1, 1), (50, 500), (7, 49)):
        rng = np.random.default_rng(events)
        _assert_same(ranker, compiled, random_inputs(300, features, events, candidates, rng))


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "din"},
        {"attention": "none"},
        {"attention_heads": 2},
        {"curve_width": 2},
        {"cross_layers": 2},
        {"shared_experts": 2},
        {"own_experts": 1},
        {"expert_layers": ()},
        {"tower_layers": (8,)},
    ],
)
def test_rankers_of_another_shape_are_left_to_onnxruntime(changes: dict[str, Any]) -> None:
    assert kernel_arrays(student(2, **changes)) is None


def test_weights_that_do_not_fit_together_are_refused() -> None:
    arrays = kernel_arrays(RANKER)
    assert arrays is not None
    for name, array in arrays.items():
        cut = array[:-1] if array.ndim == 1 else np.ascontiguousarray(array[:, :-1])
        if name not in ("positions", "codes"):  # fewer are a table, too
            with pytest.raises(InvalidBundle):
                CompiledRanker(arrays | {name: cut})
        with pytest.raises(InvalidBundle):
            CompiledRanker(arrays | {name: array.astype(np.float64)})
        if name == "offset":  # bundles from before there was one lack it
            continue
        with pytest.raises(InvalidBundle):
            CompiledRanker({other: kept for other, kept in arrays.items() if other != name})
    codes = arrays["codes"].copy()
    codes[5, -1] = 255  # of 300
    with pytest.raises(InvalidBundle, match="a code without a row"):
        CompiledRanker(arrays | {"codes": codes})


def test_inputs_of_other_sizes_are_refused(compiled: CompiledRanker) -> None:
    inputs = random_inputs(300, 75, 10, 20, np.random.default_rng(3))
    for name in INPUTS:
        cut = inputs[name][..., :-1]
        with pytest.raises(ValueError):
            compiled.run(inputs | {name: np.ascontiguousarray(cut)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with both forms of the ranker."""
    found = tmp_path_factory.mktemp("ranker")
    save_file(export_ranker(RANKER, found / ONNX, 300, 75, 20, seed=0), found / GOLDEN)
    write_kernel(RANKER, found)
    return found


def test_a_folder_with_weights_for_compiled_code_is_ranked_by_it(folder: Path) -> None:
    compiled, session = open_ranker(folder, native=True), open_ranker(folder, native=False)
    assert (compiled.runtime, session.runtime) == ("compiled", "onnxruntime")
    assert compiled.n_features == session.n_features == 75
    inputs = random_inputs(300, 75, 20, 30, np.random.default_rng(5))
    for head, scores in session.run(inputs).items():
        np.testing.assert_allclose(compiled.run(inputs)[head], scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("damage", ["no file", "cut", "empty", "another ranker's"])
def test_onnxruntime_ranks_what_compiled_code_cannot(folder: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    kernel = tmp_path / KERNEL
    match damage:
        case "no file":
            kernel.unlink()
        case "cut":
            kernel.write_bytes(kernel.read_bytes()[:-100])
        case "empty":
            kernel.write_bytes(b"")
        case _:
            other = kernel_arrays(student(7))
            assert other is not None
            save_file(other, kernel)
    with capture_logs() as logs:
        assert open_ranker(tmp_path, native=True).runtime == "onnxruntime"
    assert len(logs) == (damage != "no file")  # the reason is logged


def test_weights_are_written_only_if_they_compute_the_golden_outputs(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with pytest.raises(InvalidBundle, match="other values"):
        write_kernel(student(7), tmp_path)
    with pytest.raises(InvalidBundle, match="does not know this shape"):
        write_kernel(student(7, attention="din"), tmp_path)


@settings(max_examples=60)
@given(st.data())
def test_damaged_weights_are_refused_or_computed_with_and_never_read_past(data: st.DataObject) -> None:
    """Any sizes and codes; what passes the checks must compute (the sanitized build ends at an invalid access)."""
    arrays = kernel_arrays(student(8, n_items=40))
    assert arrays is not None
    for name in data.draw(st.sets(st.sampled_from(sorted(arrays)), max_size=3)):
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        shape = tuple(data.draw(st.integers(0, 60)) for _ in arrays[name].shape)
        if data.draw(st.booleans()):
            shape = arrays[name].shape
        arrays[name] = rng.integers(-300, 300, shape).astype(arrays[name].dtype)
    try:
        ranker = CompiledRanker(arrays)
    except InvalidBundle:
        return
    ranker.run(random_inputs(60, ranker.n_features or 0, 9, 20, np.random.default_rng(0)))


def test_golden_outputs_decide(compiled: CompiledRanker) -> None:
    inputs = random_inputs(300, 75, 20, 64, np.random.default_rng(4))
    golden = {f"ranker/in/{name}": array for name, array in inputs.items()}
    golden |= {f"ranker/out/{head}": scores for head, scores in _torch(RANKER, inputs).items()}
    assert reproduces(compiled, golden)
    golden["ranker/out/like"] = golden["ranker/out/like"] + np.float32(0.01)
    assert not reproduces(compiled, golden)
