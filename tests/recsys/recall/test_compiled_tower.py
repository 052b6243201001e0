"""The compiled user tower against torch, for random shapes and histories; and what it refuses."""

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
from recsys.contracts.types import Item
from recsys.models.attributes import PROFILE_BUCKETS, PROFILE_SLOTS
from recsys.models.encoding import N_GAPS, N_TYPES
from recsys.models.two_tower import ServedUserTower, TwoTower, TwoTowerShape
from recsys.recall.compiled_tower import GOLDEN, KERNEL, CompiledTower, open_tower
from recsys.recall.two_tower import UserTower
from tests.bundles import user_tower
from tests.recsys.native.built import needs_native
from training.two_tower.export import USER_TOWER
from training.two_tower.kernel import is_compilable, tower_arrays, write_tower_kernel

pytestmark = needs_native
N_ITEMS = 40
Arrays = dict[str, NDArray[Any]]


def tower_of(seed: int = 0, **changes: Any) -> tuple[ServedUserTower, NDArray[np.float32]]:
    """A tower with weights large enough for every part to matter, and its item vectors."""
    torch.manual_seed(seed)
    shape = TwoTowerShape(**{"dim": 32, "hidden": 24, "max_distance": 9, **changes})
    model = TwoTower(shape, [Item(f"i{number}", categories=("c",)) for number in range(N_ITEMS)]).eval()
    for parameter in model.user.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.inference_mode():
        items = np.ascontiguousarray(model.items.all_vectors()[1:].numpy())
    return ServedUserTower(model).eval(), items


def inputs_of(rng: np.random.Generator, users: int, length: int, profile: bool) -> Arrays:
    """Histories that are empty, full, and with gaps that no encoder makes; the newest event may be padding."""
    history = rng.integers(0, N_ITEMS + 1, (users, length))
    history[np.arange(length) < rng.integers(0, length + 1, (users, 1))] = 0
    arrays = {
        "history": history,
        "types": rng.integers(0, N_TYPES, (users, length)),
        "gaps": rng.integers(0, N_GAPS, (users, length)),
    }
    if profile:
        known = rng.integers(0, PROFILE_BUCKETS + 1, (users, PROFILE_SLOTS))
        arrays["profile"] = known * (rng.random(known.shape) < 0.5)
    return arrays


def of_torch(tower: ServedUserTower, items: NDArray[np.float32], given: Arrays) -> NDArray[np.float32]:
    table = torch.cat([torch.zeros(1, items.shape[1]), torch.from_numpy(items)])
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    with torch.inference_mode():
        found: NDArray[np.float32] = tower(table[tensors.pop("history")], **tensors).numpy()
    return found


SHAPES: list[dict[str, Any]] = [
    {},
    {"profile": True},
    {"blocks": 1},
    {"blocks": 3, "heads": 1, "hidden": 8},
    {"dim": 64, "hidden": 128, "max_distance": 200, "heads": 4},
    {"dim": 8, "heads": 1, "max_distance": 1},
]
TOWERS = [tower_of(seed, **shape) for seed, shape in enumerate(SHAPES)]


@settings(max_examples=100)
@given(st.sampled_from(range(len(SHAPES))), st.integers(0, 999), st.integers(1, 60), st.integers(1, 4))
def test_it_computes_what_torch_computes(which: int, seed: int, length: int, users: int) -> None:
    tower, items = TOWERS[which]
    given = inputs_of(np.random.default_rng(seed), users, length, tower.takes_profile)
    found = CompiledTower(tower_arrays(tower), items).vectors(**given)
    wanted = of_torch(tower, items, given)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_other_widths_are_left_to_onnxruntime() -> None:
    assert all(is_compilable(tower) for tower, _ in TOWERS)
    assert not is_compilable(tower_of(dim=32, heads=8)[0])
    assert not is_compilable(tower_of(hidden=20)[0])


def test_inputs_that_it_does_not_know_are_refused() -> None:
    tower, items = TOWERS[1]
    compiled = CompiledTower(tower_arrays(tower), items)
    given = inputs_of(np.random.default_rng(0), 2, 5, profile=True)
    given["history"][:] = 3
    most = {"history": N_ITEMS, "types": N_TYPES - 1, "gaps": N_GAPS - 1, "profile": PROFILE_BUCKETS}
    for name, array in given.items():
        for value in (-1, most[name] + 1):
            other = array.copy()
            other[1, -1] = value
            with pytest.raises(ValueError, match="no item's|without a row"):
                compiled.vectors(**{**given, name: other})
        with pytest.raises((ValueError, TypeError)):
            compiled.vectors(**{**given, name: array[:1]})
    with pytest.raises(ValueError, match="without a position"):
        compiled.vectors(**{name: array[:, :0] for name, array in given.items()})
    with pytest.raises(ValueError, match="reads no profile"):
        CompiledTower(tower_arrays(TOWERS[0][0]), TOWERS[0][1]).vectors(**given)


@settings(max_examples=80)
@given(st.data())
def test_damaged_weights_are_refused_or_computed_with_and_never_read_past(data: st.DataObject) -> None:
    tower, items = TOWERS[1]
    arrays = tower_arrays(tower)
    for name in data.draw(st.sets(st.sampled_from(sorted(arrays)), max_size=3)):
        action = data.draw(st.sampled_from(["shape", "type", "gone"]))
        if action == "gone":
            del arrays[name]
        elif action == "type":
            arrays[name] = arrays[name].astype(np.float64)
        else:
            shape = tuple(data.draw(st.integers(0, 70)) for _ in arrays[name].shape)
            arrays[name] = np.ones(shape, np.float32)
    try:
        compiled = CompiledTower(arrays, items)
    except InvalidBundle:
        return
    given = inputs_of(np.random.default_rng(0), 3, 9, compiled.takes_profile)
    if len(arrays["types"]) >= N_TYPES and len(arrays["gaps"]) >= N_GAPS:
        assert compiled.vectors(**given).shape == (3, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with weights and golden outputs. Its graph is another tower's: the real one takes long to export,
    and `tests/training/two_tower/test_train.py` compares with it."""
    found = tmp_path_factory.mktemp("tower")
    tower, items = TOWERS[1]
    (found / USER_TOWER).write_bytes(user_tower(items, profile=True))
    golden = inputs_of(np.random.default_rng(3), 5, 12, profile=True)
    arrays = {f"user_tower/in/{name}": array for name, array in golden.items()}
    save_file(arrays | {"user_tower/out/user_vector": of_torch(tower, items, golden)}, found / GOLDEN)
    write_tower_kernel(tower, found, items)
    return found


def test_a_folder_with_weights_for_compiled_code_is_run_by_it(folder: Path) -> None:
    tower, items = TOWERS[1]
    compiled = UserTower(folder / USER_TOWER, items, native=True)
    assert (compiled.runtime, UserTower(folder / USER_TOWER, items).runtime) == ("compiled", "onnxruntime")
    given = inputs_of(np.random.default_rng(4), 3, 20, profile=True)
    np.testing.assert_allclose(compiled.vectors(**given), of_torch(tower, items, given), rtol=1e-4, atol=1e-4)
    unknown = {**given, "profile": np.zeros_like(given["profile"])}
    del given["profile"]
    np.testing.assert_allclose(
        compiled.vectors(**given), of_torch(tower, items, unknown), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("damage", ["no file", "cut", "empty", "another tower's"])
def test_onnxruntime_runs_what_compiled_code_cannot(folder: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    kernel, items = tmp_path / KERNEL, TOWERS[1][1]
    match damage:
        case "no file":
            kernel.unlink()
        case "cut":
            kernel.write_bytes(kernel.read_bytes()[:-100])
        case "empty":
            kernel.write_bytes(b"")
        case _:
            save_file(tower_arrays(tower_of(7, profile=True)[0]), kernel)
    with capture_logs() as logs:
        assert open_tower(tmp_path, items) is None
        assert UserTower(tmp_path / USER_TOWER, items, native=True).runtime == "onnxruntime"
    assert len(logs) == 2 * (damage != "no file")  # the reason is logged


def test_weights_are_written_only_if_they_compute_the_golden_outputs(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with pytest.raises(InvalidBundle, match="other values"):
        write_tower_kernel(tower_of(7, profile=True)[0], tmp_path, TOWERS[1][1])
    with pytest.raises(InvalidBundle, match="does not know this shape"):
        write_tower_kernel(tower_of(hidden=20)[0], tmp_path, TOWERS[1][1])
