"""The sizes of a checkpoint's model, from its config.json alone: no weights are read.

Legend: E hidden width, H query heads, K key-value heads, D head width, I width of the feed-forward network, V vocabulary, W width of the
vision tower, M width of its feed-forward network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from osler.errors import PolicyError

Linears = dict[str, tuple[int, int]]
"""The width of the input and of the output of each linear layer, by its name inside its parent."""

VisionNetwork = Literal["quick_gelu", "gated", "gelu"]
"""The feed-forward network of a vision block: of Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

_NETWORKS: Final[dict[str, VisionNetwork]] = {"qwen2_vl": "quick_gelu", "qwen2_5_vl": "gated", "qwen3_vl": "gelu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionShape:
    """A vision tower. All counts are of weights."""

    depth: int
    width: int  # W
    network: VisionNetwork
    intermediate: int  # M
    patch_values: int  # of one patch: channels x frames x side x side
    merge: int  # patches on the side of an image token
    out: int  # E of the text decoder
    num_positions: int = 0  # learned position embeddings
    num_deepstack: int = 0  # further mergers, whose features are added to the first layers of the decoder

    @property
    def block(self) -> int:
        """Weights of one block."""
        width, inner = self.width, self.intermediate
        norms = 2 * width if self.network == "gated" else 4 * width
        attention = 4 * width * width + 4 * width
        network = 3 * width * inner + 2 * inner + width if self.network == "gated" else 2 * width * inner + inner + width
        return norms + attention + network

    @property
    def patch_embedding(self) -> int:
        """Weights of the embedding of patches, and of positions."""
        bias = self.width if self.network == "gelu" else 0
        return self.patch_values * self.width + bias + self.num_positions * self.width

    @property
    def mergers(self) -> int:
        """Weights of the merger of patches to image tokens, and of the deepstack mergers."""
        merged = self.width * self.merge**2
        linears = merged * merged + merged + merged * self.out + self.out
        norm = self.width if self.network == "gated" else 2 * self.width
        return norm + linears + self.num_deepstack * (2 * merged + linears)

    @property
    def linear_weights(self) -> int:
        """Weights of the linear layers, which autocast copies; without biases."""
        networks = 3 if self.network == "gated" else 2
        blocks = self.depth * (4 * self.width**2 + networks * self.width * self.intermediate)
        merged = self.width * self.merge**2
        return self.patch_values * self.width + blocks + (1 + self.num_deepstack) * (merged * merged + merged * self.out)

    @property
    def total(self) -> int:
        """All weights of the tower."""
        return self.patch_embedding + self.depth * self.block + self.mergers


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A model of a family that Osler loads. All counts are of weights."""

    model_type: str
    hidden: int  # E
    layers: int
    heads: int  # H
    kv_heads: int  # K
    head_dim: int  # D
    intermediate: int  # I
    vocabulary: int  # V
    is_tied: bool  # the output layer has the weights of the embedding
    num_biased: int  # how many of q, k, v and o have a bias: 0, 3 or 4
    normalises_heads: bool
    vision: VisionShape

    @property
    def query(self) -> int:
        """H D."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """K D."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> Linears:
        """Those of one text layer."""
        hidden, inner = self.hidden, self.intermediate
        return {
            "self_attn.q_proj": (hidden, self.query),
            "self_attn.k_proj": (hidden, self.key),
            "self_attn.v_proj": (hidden, self.key),
            "self_attn.o_proj": (self.query, hidden),
            "mlp.gate_proj": (hidden, inner),
            "mlp.up_proj": (hidden, inner),
            "mlp.down_proj": (inner, hidden),
        }

    @property
    def layer_linear_weights(self) -> int:
        """Weights of the linear layers of one text layer, without biases."""
        return sum(fan_in * fan_out for fan_in, fan_out in self.linears.values())

    @property
    def layer(self) -> int:
        """Weights of one text layer."""
        biases = {0: 0, 3: self.query + 2 * self.key, 4: self.query + 2 * self.key + self.hidden}[self.num_biased]
        return self.layer_linear_weights + biases + 2 * self.hidden + (2 * self.head_dim if self.normalises_heads else 0)

    @property
    def embedding(self) -> int:
        """Weights of the token embedding."""
        return self.vocabulary * self.hidden

    @property
    def text(self) -> int:
        """Weights of the text decoder, its output layer included."""
        return (1 if self.is_tied else 2) * self.embedding + self.layers * self.layer + self.hidden

    @property
    def total(self) -> int:
        """All weights."""
        return self.text + self.vision.total


def read_shape(folder: str | Path) -> ModelShape:
    """The sizes that `folder`/config.json states; `folder` may be an id on the hub whose files are on this machine.

    Raises PolicyError for a config that cannot be read, and for a family whose sizes are not known here.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"no memory plan, because {folder} has no readable config.json: {str(error).splitlines()[0]}") from None
    return shape_of(config)


def shape_of(config: Any) -> ModelShape:
    """The sizes of a Transformers configuration. Raises PolicyError for a family whose sizes are not known here."""
    if config.model_type not in _NETWORKS:
        raise PolicyError(f"no memory plan for a model of the type {config.model_type!r}: known are {', '.join(_NETWORKS)}")
    text = config.text_config
    is_third = config.model_type == "qwen3_vl"
    own_width = text.hidden_size // text.num_attention_heads
    return ModelShape(
        model_type=config.model_type,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or own_width if is_third else own_width,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        is_tied=bool(config.tie_word_embeddings),
        num_biased=(4 if text.attention_bias else 0) if is_third else 3,
        normalises_heads=is_third,
        vision=_vision_shape(config.model_type, config.vision_config, text.hidden_size),
    )


def _vision_shape(model_type: str, vision: Any, hidden: int) -> VisionShape:
    is_second = model_type == "qwen2_vl"
    width = vision.embed_dim if is_second else vision.hidden_size
    return VisionShape(
        depth=vision.depth,
        width=width,
        network=_NETWORKS[model_type],
        intermediate=int(width * vision.mlp_ratio) if is_second else vision.intermediate_size,
        patch_values=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        merge=vision.spatial_merge_size,
        out=hidden,
        num_positions=vision.num_position_embeddings if model_type == "qwen3_vl" else 0,
        num_deepstack=len(vision.deepstack_visual_indexes) if model_type == "qwen3_vl" else 0,
    )
