"""The memory that a training takes, by arithmetic: no weights are loaded and nothing is computed.

`plan_memory` gives the bytes of each part and the peak of each phase for one process. A phase holds what lives through the whole training
(weights, reference, the optimizer's states) and what it needs itself:

- the rollout: the autograd graph of its prefill where the update continues from it, the KV cache, packed weights, logits;
- the comparison of the first update with TRL's own code (`shared_prefix.self_check`), before the optimizer has states;
- the update: what the forward pass saves is freed layer by layer while gradients appear, so the peak is that of the worst layer;
- saving: an adapter is merged into a second copy of its base, on the CPU.

Images as files, the tokenizer, libraries and the page cache are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from osler.doctor import memory_activations as activations
from osler.doctor.memory_shape import ModelShape
from osler.doctor.memory_work import ITEM, STATE_BYTES, Workload
from osler.training.disk import space_of

FLOAT: Final = activations.FLOAT
DECODING_COPIES: Final = 6
"""Float32 copies of the logits of a token: as the model gives them, filtered, as probabilities, and for scores."""


RETURNED: Final = 32 << 20
"""glibc gives freed blocks of so many bytes back to the system. Smaller ones stay with the process, and are rarely used again: PyTorch asks
for aligned blocks, for which glibc searches a free one that is larger than the block itself."""

LIBRARIES: Final = 48 << 20
"""What libraries and a trainer take on a CPU when training begins: resident memory after a training, less all that is planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes, for one process. The parts do not add up to the peak, because they do not live at the same time."""

    parameters: int  # how many weights the model has, its adapter included
    trained: int  # how many of them are trained
    weights: int
    reference: int
    gradients: int
    gradient_buckets: int  # second copies of the gradients, which data-parallel processes exchange
    optimizer: int
    images: int  # pixels of the questions of a rollout
    activations: int  # saved for the backward pass, at most
    kv_cache: int
    masks: int
    logits: int
    packed_weights: int  # copies with which a CPU decodes
    self_check: int  # what comparing the first update with TRL's own takes
    rollout_peak: int
    check_peak: int
    update_peak: int
    saving_peak: int  # memory of the CPU where the training is on a GPU
    disk: int  # checkpoints and the trained policy, of all processes together
    num_processes: int

    @property
    def peak(self) -> int:
        """The most that training takes on its device, without saving."""
        return max(self.rollout_peak, self.check_peak, self.update_peak)

    @property
    def total_peak(self) -> int:
        """Of all processes together."""
        return self.num_processes * self.peak

    @property
    def worst_phase(self) -> str:
        """The phase with the highest peak: "rollout", "check" or "update"."""
        peaks = {"rollout": self.rollout_peak, "check": self.check_peak, "update": self.update_peak}
        return max(peaks, key=lambda name: peaks[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """A part of the backward pass."""

    saved: int = 0  # freed behind it
    gradient: int = 0  # appears in it, and stays
    moment: int = 0  # needed while it runs
    block: int = 0  # the size of the tensors that are freed
    holes: int = 0  # between what is saved, where a CPU keeps freed blocks
    is_head: bool = False  # its tensors have another size than those of layers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """A forward pass with gradients, stage after stage in the order of its backward pass."""

    stages: tuple[_Stage, ...]
    forward: int  # needed for a moment in the forward pass

    @property
    def saved(self) -> int:
        return sum(stage.saved for stage in self.stages)

    def resident(self, *, returns_all: bool) -> int:
        """What is saved, with the holes between it where freed blocks stay with the process."""
        return self.saved + sum(stage.holes for stage in self.stages if not _returns(stage, returns_all))

    def peak(self, *, has_gradients: bool, returns_all: bool, share: float) -> int:
        """The most that forward and backward pass take, with the gradients.

        `share`: how much of a float32 gradient stays in this process. `has_gradients`: those of an earlier pass exist. `returns_all`: what
        is freed serves for gradients at once; else only blocks of RETURNED do.
        """
        gradients = int(share * sum(stage.gradient for stage in self.stages)) if has_gradients else 0
        live = self.resident(returns_all=returns_all)
        most = live + self.forward + gradients
        for stage in self.stages:
            gradients += 0 if has_gradients else int(share * stage.gradient)
            most = max(most, live + gradients + stage.moment)
            returns = _returns(stage, returns_all)
            live -= stage.saved if returns else 0
            live += stage.moment if stage.is_head and not returns else 0
        return max(most, gradients)


def _returns(stage: _Stage, returns_all: bool) -> bool:
    """Whether what a stage frees goes back at once."""
    return returns_all or stage.block >= RETURNED


def plan_memory(shape: ModelShape, work: Workload) -> MemoryPlan:
    """The plan of a training of a model of this shape."""
    adapter = 0 if work.adapter is None else work.adapter.weights(shape)
    trained = adapter if work.adapter is not None else shape.total - (0 if work.trains_vision else shape.vision.total)
    shares = {name: work.num_processes if name in _shared_by(work) else 1 for name in ("weights", "gradients", "optimizer")}
    whole = shape.total * ITEM[work.dtype] + adapter * FLOAT
    weights = whole // shares["weights"]
    # DeepSpeed in bfloat16 computes with bfloat16 copies, and keeps the float32 weights with the optimizer's states.
    weights = weights // 2 if work.master_copies and work.dtype == "float32" else weights
    gradients = trained * (2 if work.master_copies else FLOAT) // shares["gradients"]
    states = trained * (STATE_BYTES[work.optimizer] + (FLOAT if work.master_copies else 0)) // shares["optimizer"]
    reference = shape.total * FLOAT // shares["weights"] if work.has_reference else 0
    # PyTorch's DistributedDataParallel makes them before the first step, and gradients do not live in them.
    gradient_buckets = trained * FLOAT if work.num_processes > 1 and work.sharding == "none" else 0

    graph, part = _rollout_graph(shape, work), _update_graph(shape, work)
    images = _image_bytes(shape, work)
    fixed = weights + reference + gradient_buckets + images + (0 if work.is_gpu else LIBRARIES)
    gathered = whole - whole // shares["weights"]  # the rollout needs whole weights
    has_gradients = work.accumulation > 1 or (work.shares_update and work.groups_at_once < work.groups)
    packed = FLOAT * (shape.layers * shape.layer_linear_weights + shape.embedding) if work.copies_weights else 0
    cache, logits = _kv_cache(shape, work), _logits(shape, work)
    rollout = 0 if work.kind == "sft" else gathered + _rollout_peak(shape, work, graph.saved, cache + packed)
    check = _check_bytes(shape, work)
    share = gradients / (FLOAT * trained) if trained else 1.0
    update = part.peak(has_gradients=has_gradients, returns_all=work.is_gpu, share=share)
    copy = shape.total * ITEM[work.dtype] if work.adapter is not None else 0
    space = space_of(
        whole=whole, trained=trained * FLOAT, is_adapter=work.adapter is not None, limit=max(work.num_checkpoints - 1, 0), rollout=0
    )
    return MemoryPlan(
        parameters=shape.total + adapter,
        trained=trained,
        weights=weights,
        reference=reference,
        gradients=gradients,
        gradient_buckets=gradient_buckets,
        optimizer=states,
        images=images,
        activations=max(graph.saved, part.saved),
        kv_cache=cache,
        masks=_mask_bytes(shape, work),
        logits=logits,
        packed_weights=packed,
        self_check=check,
        rollout_peak=fixed + states + rollout if rollout else 0,
        check_peak=fixed + part.resident(returns_all=work.is_gpu) + check if check else 0,
        update_peak=fixed + states + max(update, gradients),
        saving_peak=weights + reference + gradient_buckets + states + gathered + copy + (0 if work.is_gpu else LIBRARIES),
        disk=space.total(work.stores),
        num_processes=work.num_processes,
    )


def _shared_by(work: Workload) -> tuple[str, ...]:
    """What the processes share."""
    order = ("optimizer", "gradients", "weights")
    return () if work.sharding == "none" else order[: order.index(work.sharding) + 1]


def _image_bytes(shape: ModelShape, work: Workload) -> int:
    """Pixels of a rollout, in the groups and joined for a forward pass; TRL's own code repeats them G times."""
    patches = work.image_tokens * shape.vision.merge**2
    if work.kind == "sft":
        return work.rows * patches * shape.vision.patch_values * FLOAT
    times = 2 if work.shares_prefix else work.num_generations
    return times * work.rolled_out * patches * shape.vision.patch_values * FLOAT


def _update_graph(shape: ModelShape, work: Workload) -> _Graph:
    """What is in memory at once in an update: a micro-batch, or as many of its groups as fit in one forward pass."""
    groups = work.groups_at_once
    if not work.shares_update:
        length = work.prompt + work.completion
        # On a CPU TRL's output layer scores every position, on a GPU those with a label.
        scored = work.rows * (work.completion if work.is_gpu else length - 1)
        text = activations.plain_pass(shape, work, work.rows, length, is_padded=work.rows > 1, scored=scored)
        return _graph(shape, work, [text], prompts=work.rows, scored=scored)
    scored = groups * work.num_generations * work.completion
    if work.continues:
        behind, before = activations.branch_pass(shape, work, groups), activations.prefill_pass(shape, work, groups)
        return _graph(shape, work, [behind, before], prompts=groups, scored=scored)
    return _graph(shape, work, [activations.packed_pass(shape, work, groups)], prompts=groups, scored=scored)


def _rollout_graph(shape: ModelShape, work: Workload) -> _Graph:
    """What the rollout keeps for the update: nothing, or the graph of its prefill."""
    if work.kind == "sft" or not work.continues:
        return _Graph(stages=(), forward=0)
    return _graph(shape, work, [activations.prefill_pass(shape, work, work.rolled_out)], prompts=work.rolled_out, scored=0)


def _graph(shape: ModelShape, work: Workload, passes: Sequence[activations.Pass], *, prompts: int, scored: int) -> _Graph:
    """The stages of the output layer, of each pass of the decoder, of the embedding, and of the vision tower."""
    vision_patches = prompts * work.image_tokens * shape.vision.merge**2
    logits = activations.head_bytes(shape, work, scored, backward=True)
    tile = logits // (1 + activations.BACKWARD_TILES)
    stages = [_Stage(gradient=_if_trained(work, shape.embedding), moment=logits, block=tile, is_head=True)]
    keys = activations.kv_bytes(shape, work, prompts * work.prompt, keeps_graph=True) if work.continues else 0
    for number, one in enumerate(passes):
        stages += _layer_stages(shape, work, one, is_first=number == 0)
    if work.trains_all:
        # The gradient of the lookup is as large as the table; that of a tied one is added to the output layer's.
        table = FLOAT * shape.embedding
        stages.append(_Stage(saved=keys, gradient=0 if shape.is_tied else table, moment=table if shape.is_tied else 0))
    else:
        stages.append(_Stage(saved=keys))
    head = activations.head_bytes(shape, work, scored, backward=False)
    forward = max(head, *(one.forward for one in passes))
    if work.trains_vision:
        block, once, moment = activations.vision_bytes(shape, work, vision_patches)
        casts = 2 * shape.vision.linear_weights // max(shape.vision.depth, 1) if work.autocast else 0
        vision = shape.vision
        stages.append(_Stage(saved=once, gradient=FLOAT * vision.mergers, moment=moment))
        tensor = vision_patches * vision.width * work.item
        stages += [_Stage(saved=block + casts, gradient=FLOAT * vision.block, moment=moment, block=tensor)] * vision.depth
        stages.append(_Stage(gradient=FLOAT * vision.patch_embedding))
    return _Graph(stages=tuple(stages), forward=forward)


def _layer_stages(shape: ModelShape, work: Workload, one: activations.Pass, *, is_first: bool) -> Iterator[_Stage]:
    """The last norm and the layers of the decoder; their gradients appear in the first pass and are added to in the second."""
    gradient = _if_trained(work, shape.layer) if is_first else 0
    if work.adapter is not None and is_first:
        gradient = FLOAT * work.adapter.weights(shape) // shape.layers
    yield _Stage(saved=one.shared, block=one.block)
    for number in range(shape.layers):
        saved = (one.last_layer if number == 0 else one.layer) + one.casts
        yield _Stage(saved=saved, gradient=gradient, moment=one.backward, block=one.block, holes=one.holes)


def _if_trained(work: Workload, weights: int) -> int:
    return FLOAT * weights if work.trains_all else 0


def _kv_cache(shape: ModelShape, work: Workload) -> int:
    """The prompts' own cache and the buffers of all completions; TRL's own code keeps a prompt once for each completion."""
    if work.kind == "sft":
        return 0
    prompts = work.rolled_out
    if not work.shares_prefix:
        return activations.kv_bytes(shape, work, prompts * work.num_generations * (work.prompt + work.completion))
    prefilled = activations.kv_bytes(shape, work, prompts * work.prompt, keeps_graph=True)
    width = work.prompt + -work.prompt % 64 if work.static_decoding else work.prompt
    return prefilled + activations.kv_bytes(shape, work, prompts * (width + work.num_generations * work.completion))


def _logits(shape: ModelShape, work: Workload) -> int:
    """Of the output layer in the update, or of one decoding step of all completions."""
    length = work.prompt + work.completion
    scored = work.rows * (length - 1) if work.kind == "sft" else work.groups_at_once * work.num_generations * work.completion
    return max(activations.head_bytes(shape, work, scored, backward=True), _decoding_logits(shape, work))


def _decoding_logits(shape: ModelShape, work: Workload) -> int:
    return 0 if work.kind == "sft" else DECODING_COPIES * FLOAT * work.rolled_out * work.num_generations * shape.vocabulary


def _rollout_peak(shape: ModelShape, work: Workload, graph: int, cache: int) -> int:
    """The most that a rollout takes: while it decodes, or while the reference scores the completions."""
    casts = 0 if work.continues else _weight_casts(shape, work)  # the graph holds them
    decoding = graph + cache + casts + _decoding_logits(shape, work)
    if not work.scores_reference:
        return decoding
    one = Workload(**{name: getattr(work, name) for name in Workload.__slots__} | {"checkpoints": False})
    groups = max(work.groups_per_forward, 1)
    scored = groups * work.num_generations * work.completion
    if work.shares_prefix:
        moment = activations.packed_pass(shape, one, groups).forward + activations.branch_mask_bytes(shape, work, groups)
    else:
        scored = work.rows * (work.prompt + work.completion)
        moment = activations.plain_pass(shape, one, work.rows, work.prompt + work.completion, is_padded=True, scored=scored).forward
    return max(decoding, graph + moment + activations.head_bytes(shape, work, scored, backward=False))


def _check_bytes(shape: ModelShape, work: Workload) -> int:
    """Comparing the first update with TRL's own: up to two groups in full, and below float32 a copy of the model in it."""
    if not work.shares_update or not work.checks_itself:
        return 0
    rows, length = min(work.groups, 2) * work.num_generations, work.prompt + work.completion
    is_half = work.dtype != "float32" or work.autocast
    twin = FLOAT * shape.total if work.dtype != "float32" and work.sharding != "weights" else 0
    item = FLOAT if is_half else work.item
    tokens, patches = rows * length, rows * work.image_tokens * shape.vision.merge**2
    text = tokens * item * (3 * shape.intermediate + 2 * shape.hidden)
    vision = patches * item * (3 * shape.vision.intermediate + 2 * shape.vision.width)
    pixels = 2 * patches * shape.vision.patch_values * FLOAT
    head = activations.head_bytes(shape, work, rows * work.completion if work.is_gpu else tokens, backward=False)
    return twin + pixels + _weight_casts(shape, work) + max(text, vision, head)


def _weight_casts(shape: ModelShape, work: Workload) -> int:
    """The bfloat16 copies of weights that autocast keeps through a forward pass, or through a rollout."""
    return 2 * (shape.layers * shape.layer_linear_weights + shape.vision.linear_weights) if work.autocast else 0


def _mask_bytes(shape: ModelShape, work: Workload) -> int:
    if work.kind == "sft":
        length = work.prompt + work.completion
        return shape.layers * work.rows * length**2 * work.item if work.rows > 1 else 0
    groups = work.groups_at_once
    return activations.branch_mask_bytes(shape, work, groups * work.num_generations if groups > 1 else 1)
