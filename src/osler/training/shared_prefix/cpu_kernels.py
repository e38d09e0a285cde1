"""oneDNN's kernels for linear layers in float32 on a CPU: the weights of the decoder, packed into the layout that suits few rows.

They are private operators of PyTorch. Where a release does not have them, or a layer is not a plain float32 linear layer on the CPU, `fits`
returns False and the decoder runs the model's own modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Linear, SiLU
from transformers.activations import SiLUActivation

OPERATORS: Final = ("_reorder_linear_weight", "_linear_pointwise")

PackedWeights = tuple[Tensor, Tensor | None]
"""Weights in oneDNN's layout, and a bias."""


def has_operators(names: Sequence[str] = OPERATORS) -> bool:
    """Whether this build of PyTorch has oneDNN and the private operators."""
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):  # type: ignore[no-untyped-call]
        return False
    return all(hasattr(torch.ops.mkldnn._linear_pointwise, overload) for overload in ("default", "binary"))


def fits(model: Any) -> bool:
    """Whether packed weights compute what the model's text decoder computes. A layer with a LoRA adapter is of another type: False."""
    layers = model.model.language_model.layers
    if not has_operators() or torch.is_autocast_enabled("cpu") or not isinstance(layers[0].mlp.act_fn, SiLU | SiLUActivation):
        return False
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    modules = [getattr(layer.self_attn, name) for layer in layers for name in attention]
    modules += [getattr(layer.mlp, name) for layer in layers for name in mlp] + [model.lm_head]
    return all(type(module) is Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32 for module in modules)


def pack(*modules: Linear, norm: Tensor | None = None) -> PackedWeights:
    """The packed weights of linear layers with the same input; one product gives their outputs side by side.

    `norm` is the weight of an RMS norm before these layers; it is multiplied into their weights.
    """
    weight = torch.cat([module.weight for module in modules]) if len(modules) > 1 else modules[0].weight
    bias = torch.cat([module.bias for module in modules]) if modules[0].bias is not None else None
    return torch.ops.mkldnn._reorder_linear_weight(weight if norm is None else weight * norm), bias


def linear(rows: Tensor, weights: PackedWeights, activation: str = "none") -> Tensor:
    """A linear layer, followed by an activation function: "none" or "swish"."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, *weights, activation, [], "")
    return product


def linear_onto(rows: Tensor, other: Tensor, weights: PackedWeights, operation: str) -> Tensor:
    """A linear layer, then `operation`, "add" or "mul", with `other`."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, other, *weights, operation)
    return product
