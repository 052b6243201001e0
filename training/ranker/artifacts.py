"""Files of a trained ranker's work folder, and how its weights are stored."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.contracts.errors import InvalidConfig
from recsys.models.ranker import Ranker, RankerConfig, RankerData
from recsys.operator_files import read_json
from training.warm_start import WEIGHTS

ONNX, SHAPE = "ranker.onnx", "shape.json"
CALIBRATION, GOLDEN, SUMMARY = "calibration.json", "golden.safetensors", "summary.json"
VARIANT = "variant.json"  # of a ladder's variant alone


def save_trained(ranker: Ranker, folder: Path) -> None:
    """Write weights and shape: enough to rebuild the ranker without the data."""
    save_file({name: weight.contiguous() for name, weight in ranker.state_dict().items()}, folder / WEIGHTS)
    (folder / SHAPE).write_text(json.dumps(asdict(ranker.config), indent=2), encoding="utf-8")


def trained_ranker(folder: Path) -> Ranker:
    """Rebuild what `save_trained` wrote."""
    weights = load_file(folder / WEIGHTS)
    sizes = tuple(len(weights[f"field.{i}.weight"]) for i in range(weights["fields"].shape[1]))
    return ranker_of(read_shape(folder / SHAPE), weights, sizes)


def ranker_of(shape: RankerConfig, weights: Mapping[str, Tensor], field_sizes: tuple[int, ...]) -> Ranker:
    """The ranker with these weights, in evaluation mode."""
    data = RankerData(
        n_items=len(weights["fields"]) - 1,
        n_features=len(weights["numeric_columns"]),
        mean=weights["numeric.mean"],
        scale=weights["numeric.scale"],
        edges=weights["numeric.edges"],
        fields=weights["fields"],
        field_sizes=field_sizes,
    )
    ranker = Ranker(shape, data)
    ranker.load_state_dict(weights)
    return ranker.eval()


def read_shape(path: Path) -> RankerConfig:
    """
    Raises:
        InvalidConfig: the file is missing, or does not describe a ranker.
    """
    try:
        return shape_of(read_json(path, dict[str, Any], InvalidConfig))
    except (OSError, InvalidConfig, ValueError, TypeError) as error:
        raise InvalidConfig(
            f"{path}: not the shape of a ranker, as `recsys tune rank` writes it: {error}"
        ) from error


def shape_of(content: Mapping[str, Any]) -> RankerConfig:
    """The configuration from its JSON, where tuples became lists."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return RankerConfig(**values)
