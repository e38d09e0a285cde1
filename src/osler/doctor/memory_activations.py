"""What a forward pass keeps for its backward pass, and what both need for a moment, in bytes.

The counts follow the tensors that PyTorch's autograd saves in the code of Transformers 5, peft and Osler, one by one; a test compares them
with what it really saves. Temporary tensors are those of the largest operation.

Legend: E hidden width, Q = H D width of all queries, KD width of all keys, I width of the feed-forward network, P prompt, C completion,
T tokens of a pass, N rows, S scored tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from osler.doctor.memory_shape import ModelShape
from osler.doctor.memory_work import Workload

FLOAT: Final = 4
HEAD_ROWS: Final = 4096
HEAD_COLUMNS: Final = 32768
"""TRL's fused output layer has logits of so many tokens and words in memory at once."""

PAGE: Final = 4096
FORWARD_TILES, BACKWARD_TILES = 4, 8
"""Float32 copies of these logits that TRL's code makes on a CPU, forward and backward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A forward pass of the text decoder with gradients."""

    layer: int  # saved in each layer
    last_layer: int  # in the last, whose network sees fewer tokens
    shared: int  # saved once: the mask, the last norm, the states before the output layer
    mask: int  # of `shared`
    forward: int  # for a moment, in any layer
    backward: int
    block: int = 0  # the size of a tensor of the network
    holes: int = 0  # freed between what each layer saves
    casts: int = 0  # bfloat16 copies of weights under autocast, in each layer

    def saved(self, layers: int) -> int:
        """Everything saved."""
        return (layers - 1) * self.layer + self.last_layer + layers * self.casts + self.shared


def _adapted(work: Workload, *names: str) -> int:
    """How many of these linear layers the adapter adapts."""
    targets = () if work.adapter is None else work.adapter.targets
    return sum(any(target.endswith(name) for target in targets) for name in names)


def attention_bytes(shape: ModelShape, work: Workload) -> int:
    """Saved of each token by the norms and the projections of a layer's attention, and by the norm of its network."""
    hidden, query, item = shape.hidden, shape.query, work.item
    num_qkv, num_out, num_in = (
        _adapted(work, "q_proj", "k_proj", "v_proj"),
        _adapted(work, "o_proj"),
        _adapted(work, "gate_proj", "up_proj"),
    )
    if work.trains_all:
        # Each norm: its input in float32, the normalised rows, and its output as the input of linear layers.
        norms = 4 * FLOAT * hidden if work.dtype == "float32" else 2 * (FLOAT + 2) * hidden
        inputs = 5 * 2 * hidden if work.autocast else 2 * item * hidden
        saved = norms + inputs + item * query
    else:
        saved = 2 * FLOAT * hidden + _lora_inputs(work, hidden, num_qkv) + _lora_inputs(work, query, num_out)
        saved += _lora_inputs(work, hidden, num_in) + FLOAT * _rank(work) * (num_qkv + num_out + num_in)
    if shape.normalises_heads:
        saved += (2 if work.trains_all else 1) * FLOAT * (query + shape.key)
    return saved


def network_bytes(shape: ModelShape, work: Workload) -> int:
    """Saved of each token by a layer's feed-forward network, beyond its input."""
    inner, item = shape.intermediate, work.item
    if work.trains_all:
        return 4 * item * inner
    num_down = _adapted(work, "down_proj")
    return 3 * item * inner + _lora_inputs(work, inner, num_down) + FLOAT * _rank(work) * num_down


def _rank(work: Workload) -> int:
    return 0 if work.adapter is None else work.adapter.rank


def _lora_inputs(work: Workload, width: int, num_adapted: int) -> int:
    """What adapters of linear layers with the same input save of it: in bfloat16 peft gives each a float32 copy."""
    if not num_adapted:
        return 0
    if work.autocast:
        return 2 * width * num_adapted
    return FLOAT * width * (1 if work.dtype == "float32" else num_adapted)


def _outputs_kept(work: Workload) -> int:
    """1 where the output of attention is saved beside the input of the projection behind it, which is another tensor then."""
    return int(not work.trains_all and work.dtype == "bfloat16" and not work.autocast)


def plain_pass(shape: ModelShape, work: Workload, rows: int, length: int, *, is_padded: bool, scored: int) -> Pass:
    """Rows written out in full, as TRL's own code scores them."""
    tokens, item = rows * length, work.item
    repeats = is_padded and shape.heads > shape.kv_heads
    keys = 2 * (shape.query if repeats else shape.key)
    kept = tokens * item * (shape.query * (1 + _outputs_kept(work)) + keys)
    if is_padded:
        kept += rows * length * length * item  # PyTorch makes a mask of its own precision of a boolean one, in every layer
    return _pass(shape, work, tokens, tokens, kept, scored=scored, mask=rows * length * length if is_padded else 0)


def prefill_pass(shape: ModelShape, work: Workload, prompts: int) -> Pass:
    """Prompts alone, of which the last layer's network sees the last token only. Their KV cache counts in `kv_bytes`."""
    tokens, item = prompts * work.prompt, work.item
    kept = tokens * item * shape.query * (1 + _outputs_kept(work))
    if work.autocast:
        kept += tokens * item * 2 * shape.key  # the cache is in float32
    return _pass(shape, work, tokens, prompts, kept, scored=0, mask=0)


def branch_pass(shape: ModelShape, work: Workload, groups: int) -> Pass:
    """Completions behind the KV cache of their prompts."""
    rows, item = groups * work.num_generations, work.item
    tokens = rows * max(work.completion - 1, 1)
    extended = rows * 2 * shape.key * (work.prompt + work.completion - 1) * item
    mask = branch_mask_bytes(shape, work, rows if groups > 1 else 1)
    kept = tokens * item * 2 * shape.query + extended
    return _pass(shape, work, tokens, tokens, kept, scored=rows * work.completion, mask=mask)


def packed_pass(shape: ModelShape, work: Workload, groups: int) -> Pass:
    """Prompts and their completions in one row, each prompt once."""
    rows, item = groups * work.num_generations, work.item
    prefix, scored = groups * (work.prompt - 1), rows * work.completion
    repeated = 4 * shape.query if shape.heads > shape.kv_heads else 2 * shape.query + 2 * shape.key
    extended = rows * 2 * shape.key * (work.prompt - 1 + work.completion) * item
    kept = prefix * item * repeated + scored * item * 2 * shape.query + extended
    mask = branch_mask_bytes(shape, work, rows if groups > 1 else 1)
    return _pass(shape, work, prefix + scored, scored, kept, scored=scored, mask=mask)


def branch_mask_bytes(shape: ModelShape, work: Workload, rows: int) -> int:
    """The mask of branches, once for all layers; one row serves for prompts of equal length."""
    length = work.prompt + work.completion
    return rows * (shape.heads // shape.kv_heads) * work.completion * (length + -length % 16) * work.item


def _pass(shape: ModelShape, work: Workload, tokens: int, last_tokens: int, kept: int, *, scored: int, mask: int) -> Pass:
    """A pass over `tokens`, of which the network of the last layer sees `last_tokens`; attention keeps `kept` in every layer."""
    hidden, inner, item = shape.hidden, shape.intermediate, work.item
    attention, network = attention_bytes(shape, work), network_bytes(shape, work)
    layer, last = tokens * (attention + network) + kept, tokens * attention + last_tokens * network + kept
    casts = 2 * shape.layer_linear_weights if work.autocast else 0
    inside = FLOAT if work.adapter is not None else item  # an adapter computes in float32
    forward = tokens * (3 * inside * inner + 2 * item * hidden)
    backward = tokens * (3 * inside * inner + 3 * item * hidden) + kept // 2
    if work.checkpoints:
        backward += layer + casts
        states = FLOAT if work.autocast else item
        layer, last, casts = tokens * hidden * states, tokens * hidden * states, 0
    norm = tokens * hidden * (2 * FLOAT if work.trains_all else FLOAT) + scored * hidden * item
    return Pass(
        layer=layer,
        last_layer=last,
        shared=norm + mask,
        mask=mask,
        forward=forward,
        backward=backward,
        block=tokens * inner * item,
        holes=0 if work.trains_all or work.checkpoints else tokens * inner * (2 * FLOAT + item),
        casts=casts,
    )


def vision_block_bytes(shape: ModelShape, work: Workload) -> int:
    """Saved by one block of the tower of each patch."""
    vision = shape.vision
    widths, networks = {"quick_gelu": (11, 3), "gelu": (11, 2), "gated": (13, 4)}[vision.network]
    return work.item * (widths * vision.width + networks * vision.intermediate)


def vision_bytes(shape: ModelShape, work: Workload, patches: int) -> tuple[int, int, int]:
    """Of a tower over `patches`: what is saved in one block, what once, and what is needed for a moment."""
    vision, item = shape.vision, work.item
    block = patches * vision_block_bytes(shape, work)
    once = patches * item * vision.width * 4 * (1 + vision.num_deepstack) + patches * vision.patch_values * FLOAT
    moment = patches * item * (3 * vision.intermediate + 3 * vision.width)
    if work.checkpoints:
        return patches * item * vision.width, once, moment + block
    return block, once, moment


def kv_bytes(shape: ModelShape, work: Workload, tokens: int, *, keeps_graph: bool = False) -> int:
    """The KV cache of so many tokens; under autocast a prefill writes it in float32."""
    item = FLOAT if work.autocast and keeps_graph else work.item
    return shape.layers * 2 * shape.key * tokens * item


def head_bytes(shape: ModelShape, work: Workload, tokens: int, *, backward: bool) -> int:
    """Logits of the fused output layer at its peak, for scores of `tokens`."""
    rows, columns = min(tokens, HEAD_ROWS), min(shape.vocabulary, HEAD_COLUMNS)
    touched = -(-columns * work.item // PAGE) * PAGE  # of a buffer that is HEAD_COLUMNS wide
    if work.is_gpu:
        return rows * HEAD_COLUMNS * work.item
    return rows * touched + (BACKWARD_TILES if backward else FORWARD_TILES) * rows * columns * FLOAT
