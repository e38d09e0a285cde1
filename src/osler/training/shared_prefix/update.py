"""The update of GRPO with each prompt computed once per group: log-probabilities for TRL's losses.

- An update goes on from the prompts that the rollout read, where the weights are the same and the graph may be kept.
- The old policy's log-probabilities are the rollout's, and so are those of completions whose advantage is zero, because their gradient is.
- The first update compares one group with TRL's own log-probabilities, and returns to TRL for the rest of the run if they differ.

Legend: B blocks of completions with one prompt, G generations of a block, N = B G completions, C completion, S scored tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from osler.training.callbacks import write_above_bar
from osler.training.shared_prefix.gradient_cache import Part, score_in_parts
from osler.training.shared_prefix.groups import Groups, Scores, join
from osler.training.shared_prefix.packed_row import score, score_behind
from osler.training.shared_prefix.rollout import Rollout
from osler.training.trainer import OslerGRPOTrainer

TOLERANCE: Final[Mapping[torch.dtype, float]] = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""How far log-probabilities may lie from TRL's: the largest difference in float32, the mean one below it, where rounding alone makes a rare
token's differ by tenths."""
RECORDED: Final = ("rollout_logps", "rollout_entropies")
"""What the rollout knew of its tokens, [N, C] each, as it travels through TRL's batches."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What a recipe may say of sharing. The defaults suit a CPU."""

    groups_per_forward: int = 0  # groups that one pass may hold, in the update only of a single process; 0: no bound, prompts one by one
    static_decoding: bool = False  # decoding steps of one shape, which CUDA records and plays
    vision_cache: Path | None = None  # a folder for the features of a frozen vision tower
    vision_cache_bytes: int = 4 * 1024**3
    dynamic_sampling: int = 0  # rounds in which groups without advantage are replaced by fresh questions


class SharedUpdate(OslerGRPOTrainer):
    """TRL's losses on shared log-probabilities; what it needs of a rollout is set by the trainer that rolls out."""

    def __init__(self, *args: Any, sharing: Sharing | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sharing = sharing or Sharing()
        self._bases: dict[int, tuple[Any, Any]] = {}  # a model, which keeps its id taken, and what is in it
        self.shares_prefix = False
        self.groups: Groups | None = None  # of the last rollout
        # Of the tensors at hand: the group of each row, where they belong to `groups`; how many consecutive rows have one prompt, below 2
        # where nothing is shared; during a rollout, what it knew of its tokens; during an update, its inputs.
        self._row_groups: list[int] | None = None
        self._block = 0
        self._rollout: Rollout | None = None
        self._update: Mapping[str, Any] = {}
        self._is_checked = False
        self._has_one_tower = True  # the reference sees images as the policy does
        self._must_agree = False  # weights are sharded: all processes make the same passes through the model

    def _tell(self, text: str) -> None:
        """Say something where the user sees it, once for all processes."""
        logger.info(text)
        if self.accelerator.is_main_process:
            write_above_bar(text)

    @property
    def skips_zeros(self) -> bool:
        """Whether completions without advantage need no gradient: every loss multiplies a row's log-probabilities by its advantage.

        Not with several processes, which would wait for each other.
        """
        return self.beta == 0.0 and not self._entropy_bonus_enabled and self.accelerator.num_processes == 1

    @property
    def wants_old(self) -> bool:
        """Whether TRL asks for the old policy's log-probabilities and the rollout's are as good: below float32 they differ by rounding."""
        every = self.args.steps_per_generation * self.num_iterations
        return self.args.gradient_accumulation_steps % every != 0 and self._precision == torch.float32

    @property
    def _precision(self) -> torch.dtype:
        dtype: torch.dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self.model.dtype
        return dtype

    def _base(self, model: Any) -> Any:
        """The Transformers model in a wrapped one; found once, because accelerate looks through every module for it."""
        if id(model) not in self._bases:
            found = self.accelerator.unwrap_model(model)
            self._bases[id(model)] = model, found.get_base_model() if hasattr(found, "get_base_model") else found
        return self._bases[id(model)][1]

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        groups_N = inputs.get("group_id")
        if groups_N is not None:
            block = gcd(len(groups_N), self.num_generations)
            groups_BG = groups_N.view(-1, block)
            is_whole = self.shares_prefix and bool((groups_BG == groups_BG[:, :1]).all())
            self._row_groups, self._block, self._update = groups_N.tolist(), block if is_whole else 0, inputs
        try:
            loss: Tensor = super()._compute_loss(model, inputs)
            return loss
        finally:
            self._row_groups, self._block, self._update = None, 0, {}
            if self.groups is not None and groups_N is not None:
                self.groups.graph = []

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        mm_token_type_ids: Tensor | None = None,
        **images: Any,
    ) -> Any:
        def ask_trl(rows: Sequence[int]) -> Any:
            groups, kept = self.groups, list(rows)
            own = groups.full_images_of([self._row_groups[row] for row in kept]) if groups and self._row_groups else images
            return super(SharedUpdate, self)._get_per_token_logps_and_entropies(
                model,
                input_ids[kept],
                attention_mask[kept],
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                mm_token_type_ids=None if mm_token_type_ids is None else mm_token_type_ids[kept],
                **own,
            )

        every = range(len(input_ids))
        mask_NC = attention_mask[:, -logits_to_keep:]
        may_check = torch.is_grad_enabled() and self._may_check(mask_NC)
        if self._block < 2 or not (self._must_agree or bool(mask_NC.any())):
            return ask_trl(every)
        completions = input_ids[:, -logits_to_keep:], mask_NC
        if torch.is_grad_enabled():
            alive_B = self._find_alive(mask_NC)
            scored = self._score_alive(model, completions, alive_B)
            leader = int(alive_B.int().argmax()) * self._block
            checked = range(leader, leader + self._block)
            inside_GC = mask_NC[list(checked)].bool()
            if may_check and bool(alive_B.any()) and bool(inside_GC.any()):
                with torch.no_grad():
                    plain_GC = ask_trl(checked)[0]
                if not self._check(plain_GC[inside_GC], scored[0][list(checked)][inside_GC]):
                    return ask_trl(every)
        elif self._rollout is not None and self._rollout.logps_NT is not None and self.wants_old and model is self.model:
            scored = self._rollout.logps_NT * mask_NC, None
            self._rollout = None  # TRL asks for the old policy first; with LoRA the same model is the reference next
        else:
            scored = self._score_without_gradient(model, completions, list(every))
        return scored[0], scored[1] if compute_entropy else None, None

    def _may_check(self, mask_NC: Tensor) -> bool:
        """Whether this update may be compared with TRL's own; where processes must agree, all of them or none."""
        if self._is_checked or not self._must_agree:
            return not self._is_checked
        can = self._block > 1 and bool(mask_NC[: self._block].any())
        return not self._largest(1.0 - can)

    def _largest(self, value: float) -> float:
        """The largest of all processes' values where they must agree, else the value."""
        if not self._must_agree:
            return value
        return float(self.accelerator.gather(torch.tensor([value], device=self.accelerator.device)).max())

    def _find_alive(self, mask_NC: Tensor) -> Tensor:
        """Which blocks of an update need a gradient."""
        rows_BG = mask_NC.any(dim=1).view(-1, self._block)
        advantages = self._update.get("advantages")
        if not self.skips_zeros or advantages is None:
            return torch.ones_like(rows_BG[:, 0]).cpu()
        is_alive_B: Tensor = (advantages.view(rows_BG.shape) != 0).any(dim=1) & rows_BG.any(dim=1)
        return is_alive_B.cpu()

    def _score_alive(self, model: Any, completions: tuple[Tensor, Tensor], alive_B: Tensor) -> Scores:
        """Log-probabilities and entropies of an update, those of blocks that are not alive without a gradient."""
        rows_BG = torch.arange(len(completions[0])).view(-1, self._block)
        parts: list[Scores] = []
        order: list[Tensor] = []
        if bool(alive_B.any()):
            rows, found = self._score_with_gradient(model, completions, rows_BG, alive_B)
            alive_B = torch.isin(rows_BG[:, 0], rows)
            parts, order = [found], [rows]
        if not bool(alive_B.all()):
            ended = rows_BG[~alive_B].flatten()
            if all(name in self._update for name in RECORDED):
                mask_NC = completions[1][ended]
                width = mask_NC.shape[1]
                logps_NC, entropies_NC = (self._update[name][ended.to(mask_NC.device), :width] * mask_NC for name in RECORDED)
            else:
                logps_NC, entropies_NC = self._score_without_gradient(model, completions, ended.tolist())
            if not parts:
                # An optimizer must see gradients of zeros, as TRL's does: its momentum moves the weights on.
                logps_NC = logps_NC + sum(0.0 * weight.flatten()[0] for weight in model.parameters() if weight.requires_grad)
            parts.append((logps_NC, entropies_NC))
            order.append(ended)
        places = torch.cat(order).argsort().to(parts[0][0].device)
        logps, entropies = join(parts)
        return logps[places], None if entropies is None else entropies[places]

    def _score_with_gradient(
        self, model: Any, completions: tuple[Tensor, Tensor], rows_BG: Tensor, alive_B: Tensor
    ) -> tuple[Tensor, Scores]:
        """Scores of the blocks that are alive, and of which rows they are: behind the rollout's prompts where it left them."""
        assert self.groups is not None
        assert self._row_groups is not None
        alive = rows_BG[alive_B].flatten()
        parts = self._split(alive.tolist())
        is_alone = self.accelerator.num_processes == 1 and not self.is_deepspeed_enabled
        if len(parts) > 1 and self.sharing.groups_per_forward and is_alone:
            return alive, score_in_parts([self._part(model, completions, rows) for rows in parts])
        wanted = {self._row_groups[row] for row in alive.tolist()}
        graph = self.groups.graph
        known = {group for _, groups in graph for group in groups}
        if not wanted <= known or not bool(completions[1][alive, 1:].any()):
            return alive, self._part(model, completions, alive.tolist())()
        members: dict[int, list[int]] = {}
        for row, group in enumerate(self._row_groups):
            members.setdefault(group, []).append(row)
        used = [(prefixes, groups) for prefixes, groups in graph if wanted & set(groups)]
        rows = [row for _, groups in used for group in groups for row in members[group]]
        with self.accelerator.autocast():
            found = score_behind(model, [prefixes for prefixes, _ in used], completions[0][rows], completions[1][rows], self._base(model))
        return torch.tensor(rows), found

    def _score_without_gradient(self, model: Any, completions: tuple[Tensor, Tensor], rows: list[int]) -> Scores:
        """Scores of rows, whole blocks, some groups at a time."""
        with torch.no_grad():
            return join([self._part(model, completions, part)() for part in self._split(rows)])

    def _split(self, rows: list[int]) -> list[list[int]]:
        """Rows, whole blocks, as one pass may hold them."""
        size = max(self.sharing.groups_per_forward, 1) * self.num_generations // self._block * self._block
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _part(self, model: Any, completions: tuple[Tensor, Tensor], rows: list[int]) -> Part:
        """What scores these rows, blocks with one prompt each, prompts included."""
        assert self.groups is not None
        assert self._row_groups is not None
        ids_NC, mask_NC = (tensor[rows] for tensor in completions)
        if not bool(mask_NC.any()):
            if not self._must_agree:
                nothing_NC = torch.zeros_like(mask_NC, dtype=torch.float32)
                return lambda: (nothing_NC, nothing_NC)
            mask_NC = mask_NC.clone()
            mask_NC[0, 0] = 1  # a pass that others wait for; what it scores has no weight in any loss
        sees_alike = model is not self.ref_model or self._has_one_tower
        prompts = self.groups.prompts([self._row_groups[row] for row in rows[:: self._block]], with_features=sees_alike)

        def compute() -> Scores:
            with self.accelerator.autocast():
                return score(model, prompts, ids_NC, mask_NC, self._base(model))

        return compute

    def _check(self, plain_S: Tensor, shared_S: Tensor) -> bool:
        """Whether one group's log-probabilities are TRL's; if not, TRL's way is taken from now on."""
        self._is_checked = True
        difference = (plain_S - shared_S.detach()).abs().float()
        found = self._largest(float(difference.max() if self._precision == torch.float32 else difference.mean()))
        if found <= TOLERANCE[self._precision]:
            self._tell(f"prompts are shared within groups: log-probabilities differ by {found:.1e} from TRL's own")
            return True
        self.shares_prefix, self._block = False, 0
        logger.warning(
            "SHARED PREFIXES ARE OFF: log-probabilities differ by %.1e from TRL's own and %.0e is allowed. The run goes on without them; "
            "set [trainer] share_prefix = false and report this",
            found,
            TOLERANCE[self._precision],
        )
        return False
