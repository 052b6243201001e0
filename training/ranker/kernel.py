"""The weights of a student for the compiled kernel (`recsys.ranking.compiled`), from its torch module."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from recsys.contracts.errors import InvalidBundle
from recsys.models.blocks import DotAttention, Experts
from recsys.models.compact import HashedTable, QuantizedTable
from recsys.models.mapped_arrays import mapped_arrays
from recsys.models.ranker import Ranker
from recsys.ranking.compiled import KERNEL, CompiledRanker, reproduces
from training.ranker.artifacts import GOLDEN


def write_kernel(ranker: Ranker, folder: Path) -> None:
    """Write the weights of `folder`'s exported ranker for compiled code, and compare it with the golden outputs.

    Raises:
        InvalidBundle: the ranker has another shape, or compiled code computes other values.
    """
    arrays = kernel_arrays(ranker)
    if arrays is None:
        raise InvalidBundle(f"{folder}: compiled code does not know this shape of ranker")
    save_file(arrays, folder / KERNEL)
    if not reproduces(CompiledRanker(mapped_arrays(folder / KERNEL)), load_file(folder / GOLDEN)):
        raise InvalidBundle(f"{folder / KERNEL}: compiled code computes other values than the golden outputs")


def kernel_arrays(ranker: Ranker) -> dict[str, NDArray[Any]] | None:
    """Arrays by name, as `recsys/native/src/ranker_weights.hpp` describes them; None: another shape than the kernel's.

    Matrices are (in, out). A field's embedding and its part of `from_fields` are multiplied out, so that an item's
    fields are sums of rows.
    """
    if not is_compilable(ranker):
        return None
    table = cast("QuantizedTable", _item_rows(ranker))
    codes, starts, fields = _fields(ranker)
    arrays: dict[str, Tensor] = {
        "buckets": torch.tensor([ranker.config.item_buckets], dtype=torch.int32),
        "offset": torch.tensor([ranker.config.offset], dtype=torch.int32),
        "rows": table.q,
        "row_scale": table.scale.squeeze(1),
        "codes": codes,
        "starts": starts,
        "fields": fields,
        "field_bias": ranker.from_fields.bias if ranker.from_fields else torch.zeros(ranker.config.width),
        "types": _rows(ranker.event_type),
        "gaps": _rows(ranker.event_gap),
        "positions": _rows(ranker.position),
        "mean": ranker.numeric.mean,
        "scale": ranker.numeric.scale,
    }
    for name, linears in _layers(ranker).items():  # several: their outputs side by side
        arrays[f"{name}_w"] = torch.cat([linear.weight for linear in linears]).T
        arrays[f"{name}_b"] = torch.cat([_bias(linear) for linear in linears])
    return {name: np.ascontiguousarray(array.detach().numpy()) for name, array in arrays.items()}


def _layers(ranker: Ranker) -> dict[str, list[nn.Linear]]:
    attention, experts = cast("DotAttention", ranker.attention), cast("Experts", ranker.experts)
    deep = _linears(experts.shared[0])
    return {
        "query": [attention.query],
        "key": [attention.key],
        "value": [attention.value],
        "down": _linears(ranker.cross.down),
        "up": _linears(ranker.cross.up),
        "wide": [ranker.wide],
        **{f"expert{number}": [layer] for number, layer in enumerate(deep)},
        "tower": _linears(ranker.towers),
    }


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _bias(linear: nn.Linear) -> Tensor:
    bias: Tensor | None = linear.bias
    return torch.zeros(linear.out_features) if bias is None else bias


def is_compilable(ranker: Ranker) -> bool:
    """Whether its shape is the kernel's. The item rows are in 8 bits."""
    c = ranker.config
    return (
        isinstance(_item_rows(ranker), QuantizedTable)
        and (c.attention, c.attention_heads, c.curve_width, c.cross_layers) == ("dot", 1, 0, 1)
        and (c.shared_experts, c.own_experts, c.tower_layers) == (1, 0, ())
        and bool(c.expert_layers)
        and not ranker.data.categorical
    )


def _item_rows(ranker: Ranker) -> nn.Module:
    return ranker.item.rows if isinstance(ranker.item, HashedTable) else ranker.item


def _rows(table: nn.Module) -> Tensor:
    """All rows of an embedding or of a quantized one, as it reads them."""
    stored = table.weight if isinstance(table, nn.Embedding) else table.q
    rows: Tensor = table(torch.arange(len(stored)))  # type: ignore[arg-type]
    return rows


def _fields(ranker: Ranker) -> tuple[Tensor, Tensor, Tensor]:
    """Of all fields: (n_items + 1, n_fields · bytes) uint8 codes, each in as few bytes as the largest needs, the lowest
    first; (n_fields,) int32 where the rows of each start; (codes, width) float32 rows."""
    width = ranker.config.field_width
    parts, starts, start = [torch.zeros(0, ranker.config.width)], [], 0
    for i, table in enumerate(ranker.field):
        assert ranker.from_fields is not None  # noqa: S101 - for mypy
        rows = _rows(table)
        parts.append(rows @ ranker.from_fields.weight[:, i * width : (i + 1) * width].T)
        starts.append(start)
        start += len(rows)
    sizes = [len(part) for part in parts[1:]]
    needed = max(1, ((max(sizes, default=1) - 1).bit_length() + 7) // 8)
    codes = np.ascontiguousarray(ranker.fields.numpy().astype("<i4")[:, :, None])
    lowest = codes.view(np.uint8)[:, :, :needed].reshape(len(codes), -1)
    return torch.from_numpy(lowest), torch.tensor(starts, dtype=torch.int32), torch.cat(parts)
