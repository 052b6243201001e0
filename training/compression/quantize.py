"""The steps of the compression ladder that change a trained ranker: pruning and quantization."""

import copy
import logging
from dataclasses import replace
from pathlib import Path

import torch
import torch_pruning
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from recsys.models.compact import quantize_tables
from recsys.models.ranker import Ranker
from training.onnx_export import shorten_names


def prune_experts(ranker: Ranker, share: float) -> Ranker:
    """A copy with the weakest `share` of each expert's hidden units removed, whole rows and columns at a time.

    Structured pruning by weight magnitude: the matrices shrink, an expert's inputs and outputs keep their width.
    Fine-tune afterwards.
    """
    pruned = copy.deepcopy(ranker)
    if pruned.experts is None:
        return pruned
    experts = [*pruned.experts.shared, *(e for own in pruned.experts.own for e in own.children())]
    for expert in experts:
        linears = [m for m in expert.modules() if isinstance(m, nn.Linear)]
        graph = torch_pruning.DependencyGraph().build_dependency(
            expert, example_inputs=torch.zeros(2, linears[0].in_features)
        )
        for linear in linears[:-1]:
            removed = linear.weight.detach().norm(dim=1).argsort()[: int(linear.out_features * share)]
            if len(removed):
                graph.get_pruning_group(
                    linear, torch_pruning.prune_linear_out_channels, idxs=removed.tolist()
                ).prune()
    hidden = [linear.out_features for linear in linears]
    pruned.config = replace(ranker.config, expert_layers=tuple(hidden))  # so that another run builds the same
    return pruned


def zero_smallest(ranker: Ranker, share: float) -> Ranker:
    """A copy with the smallest `share` of each matrix set to 0: unstructured pruning. Dense kernels gain nothing."""
    sparse = copy.deepcopy(ranker)
    for module in sparse.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.data
            limit = weight.abs().flatten().kthvalue(max(1, int(weight.numel() * share))).values
            weight[weight.abs() <= limit] = 0.0
    return sparse


def quantized_tables(ranker: Ranker, bits: int) -> Ranker:
    """A copy with its embedding rows in `bits` bits."""
    quantized = copy.deepcopy(ranker)
    quantize_tables(quantized, bits)
    return quantized


def half_weights(ranker: Ranker) -> Ranker:
    """A copy whose dense weights are numbers of half precision, so that a device can be sent them in 16 bits and still
    computes what the server does. Statistics of features stay as they are: a scale may be beyond its range."""
    rounded = copy.deepcopy(ranker)
    largest = torch.finfo(torch.float16).max
    for weights in rounded.parameters():
        weights.data = weights.data.clamp(-largest, largest).half().float()
    return rounded


def quantize_linear_layers(model: Path, out: Path) -> None:
    """Dynamic INT8 of the matrix products in an exported ranker: weights per channel, inputs on the fly."""
    prepared = out.with_suffix(".prepared.onnx")
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises what the next line does
    try:
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=False)
        quantize_dynamic(
            str(prepared),
            str(out),
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
        shorten_names(out)
    finally:
        logging.root.setLevel(level)
        prepared.unlink(missing_ok=True)
