"""What a training asks of the memory: the settings that decide how much it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from osler.doctor.memory_shape import ModelShape

Kind = Literal["grpo", "sft"]
Precision = Literal["float32", "bfloat16"]
Sharding = Literal["none", "optimizer", "gradients", "weights"]
"""What several processes share: nothing (each holds everything), or as DeepSpeed's ZeRO 1, 2 and 3; FSDP shares weights."""

Optimizer = Literal["adamw", "adamw_8bit", "sgd", "momentum", "adafactor"]

STATE_BYTES: Final[dict[Optimizer, int]] = {"adamw": 8, "adamw_8bit": 2, "momentum": 4, "sgd": 0, "adafactor": 0}
"""Bytes that an optimizer keeps of each trained float32 weight; Adafactor's rows and columns are too few to count."""

CPU_PACK_FROM: Final = 6
"""Completions of so many tokens are decoded with packed copies of the weights on a CPU: `shared_prefix.decoder.PACK_FROM`."""

ITEM: Final[dict[Precision, int]] = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""


ALL_LINEAR: Final = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
"""The linear layers of a text layer, which "all-linear" adapts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter: the linear layers of every text layer that it adapts, by name as in `ModelShape.linears`, and its rank."""

    rank: int
    targets: tuple[str, ...]  # ("self_attn.q_proj", "mlp.up_proj")

    def weights(self, shape: ModelShape) -> int:
        """How many weights it has."""
        linears = shape.linears
        return shape.layers * sum(self.rank * sum(linears[name]) for name in self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One step of a training in one process. Lengths are those of the longest row, in tokens.

    The defaults are one question of SFT in float32, every weight trained, on a CPU.
    """

    kind: Kind = "sft"
    rows: int = 1  # of a micro-batch: completions of GRPO, questions of SFT
    accumulation: int = 1  # micro-batches before the optimizer's step
    micro_batches: int = 1  # of a rollout of GRPO
    num_generations: int = 1  # G
    prompt: int = 256  # P, image tokens included
    completion: int = 16  # C
    image_tokens: int = 64  # of all images of a prompt
    images: int = 1
    dtype: Precision = "float32"  # of the weights
    autocast: bool = False  # bfloat16 arithmetic on float32 weights
    adapter: Adapter | None = None
    freezes_vision: bool = False
    checkpoints: bool = False  # gradient checkpointing
    optimizer: Optimizer = "adamw"
    master_copies: bool = False  # DeepSpeed in bfloat16 keeps float32 weights beside those of the model
    has_reference: bool = False  # a second model, for the KL penalty of a full fine-tuning
    scores_reference: bool = False  # whether the starting policy scores completions, by the second model or without the adapter
    shares_prefix: bool = True
    keeps_groups: bool = True  # groups stay together in micro-batches, see `SharedPrefixGRPOTrainer.keeps_groups`
    groups_per_forward: int = 0  # 0: no bound
    reuses_rollout: bool = False  # several updates of one rollout, so none continues from its prefill
    checks_itself: bool = True  # the first update is compared with TRL's own
    static_decoding: bool = False
    is_gpu: bool = False
    num_processes: int = 1
    sharding: Sharding = "none"
    num_checkpoints: int = 3  # on the disk at a time
    stores: Literal["resume", "weights", "none"] = "resume"  # `[trainer] checkpoint`

    @property
    def shares_update(self) -> bool:
        """Whether an update computes a prompt once for its group; else TRL's own code writes every row out."""
        return self.kind == "grpo" and self.shares_prefix and (self.keeps_groups or self.micro_batches == 1)

    @property
    def groups(self) -> int:
        """Groups of a micro-batch; a group that lies in two of them counts in both."""
        return max(1, -(-self.rows // self.num_generations))

    @property
    def rolled_out(self) -> int:
        """Groups of a rollout."""
        return max(1, self.rows * self.micro_batches // self.num_generations)

    @property
    def groups_at_once(self) -> int:
        """Groups in one forward pass of an update."""
        return min(self.groups, self.groups_per_forward or self.groups)

    @property
    def continues(self) -> bool:
        """Whether the update continues from the prefill of the rollout, whose autograd graph is kept."""
        bound = self.groups_per_forward
        is_only = self.micro_batches == 1 and not self.reuses_rollout
        shares_nothing = self.sharding != "weights"
        return self.shares_prefix and is_only and not self.checkpoints and shares_nothing and (not bound or self.rolled_out <= bound)

    @property
    def trains_vision(self) -> bool:
        """Whether the tower has gradients; an adapter leaves it alone."""
        return not self.freezes_vision and self.adapter is None

    @property
    def trains_all(self) -> bool:
        """Whether the weights of the model are trained, and not those of an adapter."""
        return self.adapter is None

    @property
    def item(self) -> int:
        """Bytes of a number of arithmetic."""
        return 2 if self.autocast else ITEM[self.dtype]

    @property
    def copies_weights(self) -> bool:
        """Whether decoding on a CPU makes packed copies of the weights of the decoder (`cpu_kernels.fits`)."""
        is_plain = self.dtype == "float32" and not self.autocast and self.trains_all
        return is_plain and not self.is_gpu and not self.static_decoding and self.completion >= CPU_PACK_FROM
