"""Write a torch module as ONNX by tracing it."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn


def export_traced(
    module: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
) -> None:
    """Trace `module` (in evaluation mode) on `inputs`, its arguments by name in order.

    Tracing takes two seconds for a ranker. `torch.export`, which follows symbolic shapes through thousands of
    operations, takes twenty and more for the same graph: as large, as fast, with the same outputs. But a trace keeps
    what Python decided, or computed from a shape, for this example: the callers compare with torch on other shapes.

    Args:
        dynamic: input → its dimensions of any size, by name.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):  # it is deprecated
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                str(path),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes={name: dict(axes) for name, axes in dynamic.items()},
                opset_version=18,
                dynamo=False,
            )
    finally:
        logger.setLevel(level)
    shorten_names(path)


def shorten_names(path: Path) -> None:
    """Drop what nothing reads: 20 kB of a ranker, in which values are named by the modules that made them."""
    model = onnx.load(path)
    graph = model.graph
    given = {value.name for values in (graph.input, graph.output, graph.initializer) for value in values}
    free = (name for n in count() if (name := f"v{n}") not in given)
    short: dict[str, str] = {"": ""}
    for node in graph.node:
        node.name = node.doc_string = ""
        for names in (node.input, node.output):
            for name in names:
                if name not in given and name not in short:
                    short[name] = next(free)
            names[:] = [short.get(name, name) for name in names]
    graph.ClearField("value_info")
    onnx.save(model, path)
