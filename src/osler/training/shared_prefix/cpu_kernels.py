"""Linear layers in float32 on a CPU for few rows: copies of the decoder's weights in the layout that is fastest there.

- On a CPU with AVX2 and no AVX-512: transposed, for PyTorch's own matrix product. On AMD's Zen 3 a decoding step of 8 rows took 0.8 of the
  time that it takes with oneDNN's layout.
- On other CPUs: oneDNN's layout, whose operators are private to PyTorch. Where a release does not have them, `fits` returns False and the
  decoder runs the model's own modules, as it does for layers that are not plain float32 linear layers on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Linear, SiLU
from torch.nn.functional import silu
from transformers.activations import SiLUActivation

OPERATORS: Final = ("_reorder_linear_weight", "_linear_pointwise")

PackedWeights = tuple[Tensor, Tensor | None]
"""Weights, transposed [in, out] or in oneDNN's layout, and a bias."""


@cache
def prefers_transposed() -> bool:
    """Whether this CPU multiplies few rows faster with transposed weights than in oneDNN's layout."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def has_operators(names: Sequence[str] = OPERATORS) -> bool:
    """Whether this build of PyTorch has oneDNN and the private operators."""
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):  # type: ignore[no-untyped-call]
        return False
    return all(hasattr(torch.ops.mkldnn._linear_pointwise, overload) for overload in ("default", "binary"))


def fits(model: Any) -> bool:
    """Whether packed weights compute what the model's text decoder computes. A layer with a LoRA adapter is of another type: False."""
    layers = model.model.language_model.layers
    if torch.is_autocast_enabled("cpu") or not isinstance(layers[0].mlp.act_fn, SiLU | SiLUActivation):
        return False
    if not prefers_transposed() and not has_operators():
        return False
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    modules = [getattr(layer.self_attn, name) for layer in layers for name in attention]
    modules += [getattr(layer.mlp, name) for layer in layers for name in mlp] + [model.lm_head]
    return all(type(module) is Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32 for module in modules)


def pack(*modules: Linear, norm: Tensor | None = None, transposes: bool | None = None) -> PackedWeights:
    """The packed weights of linear layers with the same input; one product gives their outputs side by side.

    `norm` is the weight of an RMS norm before these layers; it is multiplied into their weights. `transposes` chooses the layout; None:
    the one for this CPU.
    """
    weight = torch.cat([module.weight for module in modules]) if len(modules) > 1 else modules[0].weight
    bias = torch.cat([module.bias for module in modules]) if modules[0].bias is not None else None
    if norm is not None:
        weight = weight * norm
    if prefers_transposed() if transposes is None else transposes:
        return weight.t().contiguous(), bias
    return torch.ops.mkldnn._reorder_linear_weight(weight), bias


def linear(rows: Tensor, weights: PackedWeights, activation: str = "none") -> Tensor:
    """A linear layer, followed by an activation function: "none" or "swish"."""
    weight, bias = weights
    if weight.is_mkldnn:
        product: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, *weights, activation, [], "")
        return product
    product = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
    return silu(product, inplace=True) if activation == "swish" else product


def linear_onto(rows: Tensor, other: Tensor, weights: PackedWeights, operation: str) -> Tensor:
    """A linear layer, then `operation`, "add" or "mul", with `other`."""
    weight, bias = weights
    if weight.is_mkldnn:
        product: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, other, *weights, operation)
        return product
    if operation == "mul":
        return linear(rows, weights).mul_(other)
    added = torch.addmm(other, rows, weight)
    return added if bias is None else added.add_(bias)
