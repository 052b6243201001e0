"""The weights of a user tower for the compiled kernel (`recsys.recall.compiled_tower`), from its torch module."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from recsys.contracts.errors import InvalidBundle
from recsys.models.mapped_arrays import mapped_arrays
from recsys.models.transformer import Block
from recsys.models.two_tower import ServedUserTower
from recsys.recall.compiled_tower import GOLDEN, KERNEL, CompiledTower, reproduces

_LANES = 8


def write_tower_kernel(tower: ServedUserTower, folder: Path, items: NDArray[np.float32]) -> None:
    """Write the weights of `folder`'s exported tower for compiled code, and compare it with the golden outputs.

    Raises:
        InvalidBundle: compiled code does not know this shape, or computes other values.
    """
    if not is_compilable(tower):
        raise InvalidBundle(f"{folder}: compiled code does not know this shape of user tower")
    save_file(tower_arrays(tower), folder / KERNEL)
    if not reproduces(CompiledTower(mapped_arrays(folder / KERNEL), items), load_file(folder / GOLDEN)):
        raise InvalidBundle(f"{folder / KERNEL}: compiled code computes other values than the golden outputs")


def is_compilable(tower: ServedUserTower) -> bool:
    """Whether the widths of its heads and of its feed-forward layers are multiples of eight."""
    return all(
        block.attention_norm.weight.numel() // block.attention.heads % _LANES == 0
        and block.feed_forward.down.in_features % _LANES == 0
        for block in _blocks(tower)
    )


def tower_arrays(tower: ServedUserTower) -> dict[str, NDArray[Any]]:
    """Arrays by name, as `recsys/native/src/tower_weights.hpp` describes them. Matrices are (in, out)."""
    user = tower.user
    arrays: dict[str, Tensor] = {
        "padding": tower.padding,
        "types": user.types.weight,
        "gaps": user.gaps.weight,
        "norm": user.norm.weight,
        "scale": user.log_scale.exp().reshape(1),
    }
    if user.profile is not None:
        arrays["profile"] = user.profile.weight
    for number, block in enumerate(_blocks(tower)):
        attention, feed_forward = block.attention, block.feed_forward
        linears = {
            "qkv": attention.qkv,
            "out": attention.out,
            "gate_up": feed_forward.gate_up,
            "down": feed_forward.down,
        }
        prefix = f"block{number}_"
        arrays |= {
            f"{prefix}attention_norm": block.attention_norm.weight,
            f"{prefix}feed_forward_norm": block.feed_forward_norm.weight,
            f"{prefix}recency": attention.recency,
            **{f"{prefix}{name}_w": linear.weight.T for name, linear in linears.items()},
            **{f"{prefix}{name}_b": _no_bias(linear) for name, linear in linears.items()},
        }
    return {name: np.ascontiguousarray(array.detach().numpy()) for name, array in arrays.items()}


def _blocks(tower: ServedUserTower) -> list[Block]:
    return cast("list[Block]", list(tower.user.blocks))


def _no_bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features)
