"""The update of GRPO with each prompt computed once per group: log-probabilities for TRL's losses.

- If the rollout's prefill has an autograd graph and the weights have not changed, the update continues from it.
- The rollout's log-probabilities serve for the old policy and for completions with advantage 0, whose gradient is 0.
- The first update of each kind is compared with TRL's own log-probabilities (`self_check`); if they differ, the rest of the run uses TRL's
  path.

Legend: B blocks of completions with one prompt, G generations of a block, N = B G completions, C completion, S scored tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from osler.policies.lora import base_of
from osler.training.callbacks import write_above_bar
from osler.training.shared_prefix.gradient_cache import Part, score_in_parts
from osler.training.shared_prefix.groups import Scores, join
from osler.training.shared_prefix.packed_row import Letters, prefill, score_after_cache, score_packed
from osler.training.shared_prefix.self_check import (
    MORE_PADDING,
    Difference,
    Kind,
    compare_exactly,
    compare_in_half,
    compare_with_noise,
    exact_twin,
    without_autocast,
)
from osler.training.shared_prefix.step import GenerationStep, Rows
from osler.training.trainer import OslerGRPOTrainer

RECORDED: Final = ("rollout_logps", "rollout_entropies")
"""Keys of TRL's batch under which the rollout stores the scores of its tokens, [N, C] each."""

UseTrl = Callable[..., Any]
"""TRL's own scores of some rows: (rows, model, padding) -> (log-probabilities, entropies, auxiliary loss)."""

logger = logging.getLogger(__name__)


def _split_letters(scores: Scores, num_tokens: int) -> tuple[Scores, Tensor | None]:
    """Scores [N, C] and log-probabilities of letters [N, O], of scores that may have both side by side."""
    logps, entropies = scores
    letter_logps_NO = logps[:, num_tokens:] if logps.shape[1] > num_tokens else None
    return (logps[:, :num_tokens], None if entropies is None else entropies[:, :num_tokens]), letter_logps_NO


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """The settings of `[trainer]` about shared prompts. The defaults suit a CPU."""

    groups_per_forward: int = 0  # groups in one forward pass, in the update for a single process only; 0: as docs/sharing.md says
    static_decoding: bool = False  # decoding steps of fixed shape, for a CUDA graph
    vision_cache: Path | None = None  # folder for the features of a frozen vision tower
    vision_cache_bytes: int = 4 * 1024**3
    dynamic_sampling: int = 0  # rounds in which groups without advantage are replaced by other questions


class SharedUpdate(OslerGRPOTrainer):
    """TRL's losses on log-probabilities of packed rows. Its subclass does the rollout and sets `generation`."""

    def __init__(self, *args: Any, sharing: Sharing | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sharing = sharing or Sharing()
        self.shares_prefix = False
        self.generation: GenerationStep | None = None  # from a rollout to its last update
        self._bases: dict[int, tuple[Any, Any]] = {}  # id of a wrapped model -> that model (so its id stays taken), its Transformers model
        self.checks_itself = True
        self.checked: dict[Kind, Sequence[Difference]] = {}  # for each kind of batch, the differences from TRL's log-probabilities
        self._has_one_tower = True  # the reference has the same vision tower as the policy
        self._is_lockstep = False  # weights are sharded, so all processes must make the same forward passes

    @property
    def rows(self) -> Rows | None:
        """The rows of the current call of TRL that share prompts, or None."""
        rows = self.generation.rows if self.generation is not None else None
        return rows if rows is not None and rows.block > 1 else None

    def log_once(self, text: str) -> None:
        """Print a line above the progress bar, on the main process only."""
        logger.info(text)
        if self.accelerator.is_main_process:
            write_above_bar(text)

    @property
    def skips_zeros(self) -> bool:
        """Whether completions with advantage 0 need no gradient, because every term of the loss is multiplied by the advantage.

        Not with several processes, which would wait for each other.
        """
        return self.beta == 0.0 and not self._entropy_bonus_enabled and self.accelerator.num_processes == 1

    @property
    def uses_rollout_logps(self) -> bool:
        """Whether TRL needs the old policy's log-probabilities and the rollout's are exact: below float32 they differ by rounding."""
        generate_every = self.args.steps_per_generation * self.num_iterations
        return self.args.gradient_accumulation_steps % generate_every != 0 and self._precision == torch.float32

    @property
    def _precision(self) -> torch.dtype:
        dtype: torch.dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self.model.dtype
        return dtype

    def _base(self, model: Any) -> Any:
        """The Transformers model inside a wrapped one. Cached, because accelerate searches all modules for it."""
        if id(model) not in self._bases:
            self._bases[id(model)] = model, base_of(self.accelerator.unwrap_model(model))
        return self._bases[id(model)][1]

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        generation = self.generation if "group_id" in inputs else None
        if generation is not None:
            inputs = {**inputs}  # TRL reads advantages from it after `_take_expectation`
            generation.begin_update(inputs, shares_prefix=self.shares_prefix)
        try:
            loss: Tensor = super()._compute_loss(model, inputs)
            return loss
        finally:
            if generation is not None:
                generation.end_update()
                if (self._step + 1) % (self.args.steps_per_generation * self.num_iterations) == 0:
                    self.generation = None

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
        generation = self.generation

        def use_trl(row_ids: Sequence[int], model: Any = model, padding: int = 0) -> Any:
            kept = list(row_ids)

            def select(rows: Tensor, value: int = 0) -> Tensor:
                return torch.nn.functional.pad(rows[kept], (padding, 0), value=value)

            if generation is None or generation.rows is None:
                own = images
            else:
                own = generation.groups.full_images_of([generation.rows.group_ids[row] for row in kept])
            return super(SharedUpdate, self)._get_per_token_logps_and_entropies(
                model,
                select(input_ids, self._tokenizer.pad_token_id),
                select(attention_mask),
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                mm_token_type_ids=None if mm_token_type_ids is None else select(mm_token_type_ids),
                **own,
            )

        every = range(len(input_ids))
        mask_NC = attention_mask[:, -logits_to_keep:]
        rows = self.rows
        if generation is None or rows is None or not (self._is_lockstep or bool(mask_NC.any())):
            return use_trl(every)
        completions = input_ids[:, -logits_to_keep:], mask_NC
        if torch.is_grad_enabled():
            needs_grad_B = self._find_blocks_with_gradient(rows, mask_NC)
            kind = self._unchecked_kind(rows, mask_NC, needs_grad_B)
            scores, letter_logps_NO = _split_letters(self._score_update(model, completions, needs_grad_B), logits_to_keep)
            if kind is not None and not self._check(kind, model, completions, needs_grad_B, scores[0].detach(), use_trl):
                return use_trl(every)
            scores = self._take_expectation(rows.batch, scores[0], letter_logps_NO, mask_NC), scores[1]
        elif self.uses_rollout_logps and model is self.model and generation.old_logps_NT is not None:
            scores = generation.old_logps_NT * mask_NC, None
            generation.rollout = None  # TRL asks for the old policy first; with LoRA the next call with the same model is the reference
        else:
            wide = self._score_without_gradient(model, completions, list(every))
            scores, generation.ref_letter_logps_NO = _split_letters(wide, logits_to_keep)
        return scores[0], scores[1] if compute_entropy else None, None

    def _take_expectation(self, _batch: dict[str, Any], logps_NC: Tensor, _letter_logps_NO: Tensor | None, _mask_NC: Tensor) -> Tensor:
        """The log-probabilities whose gradient TRL's loss takes. A subclass may change them, and advantages in the batch."""
        return logps_NC

    def _unchecked_kind(self, rows: Rows, mask_NC: Tensor, needs_grad_B: Tensor) -> Kind | None:
        """The kind of this update if it was not compared yet and can be. In lockstep all processes compare once in a run, together."""
        if not self.checks_itself or (self._is_lockstep and self.checked):
            return None
        can = bool(mask_NC.view(-1, rows.block, mask_NC.shape[1]).flatten(1).any(dim=1).cpu()[needs_grad_B].any())
        if self._max_over_processes(1.0 - can):
            return None
        assert self.generation is not None
        groups = self.generation.groups
        members = [groups.members[group] for group in {*rows.group_ids[:: rows.block]}]
        lengths_N = mask_NC.sum(dim=1)
        kind = Kind(
            has_images=any(member.images for member in members),
            is_ragged=bool((lengths_N != lengths_N[0]).any()),
            is_padded=len({len(member.ids_P) for member in members}) > 1,
            num_groups=min(int(needs_grad_B.sum()), 2),
            continues=bool(groups.graph),
        )
        return None if kind in self.checked else kind

    def _max_over_processes(self, value: float) -> float:
        """The maximum over all processes in lockstep, else the value itself."""
        if not self._is_lockstep:
            return value
        return float(self.accelerator.gather(torch.tensor([value], device=self.accelerator.device)).max())

    def _find_blocks_with_gradient(self, rows: Rows, mask_NC: Tensor) -> Tensor:
        """[B] bool on the CPU: which blocks of an update need a gradient."""
        has_tokens_BG = mask_NC.any(dim=1).view(-1, rows.block)
        advantages = rows.batch.get("advantages")
        if not self.skips_zeros or advantages is None:
            return torch.ones_like(has_tokens_BG[:, 0]).cpu()
        needs_grad_B: Tensor = (advantages.view(has_tokens_BG.shape) != 0).any(dim=1) & has_tokens_BG.any(dim=1)
        return needs_grad_B.cpu()

    def _score_update(self, model: Any, completions: tuple[Tensor, Tensor], needs_grad_B: Tensor) -> Scores:
        """Log-probabilities and entropies of a micro-batch; blocks that need no gradient are computed without one."""
        rows = self.rows
        assert rows is not None
        rows_BG = torch.arange(len(completions[0])).view(-1, rows.block)
        parts: list[Scores] = []
        order: list[Tensor] = []
        if bool(needs_grad_B.any()):
            scored, scores = self._score_with_gradient(model, completions, rows_BG[needs_grad_B].flatten())
            needs_grad_B = torch.isin(rows_BG[:, 0], scored)
            parts, order = [scores], [scored]
        if not bool(needs_grad_B.all()):
            other = rows_BG[~needs_grad_B].flatten()
            if all(name in rows.batch for name in RECORDED):
                mask_NC = completions[1][other]
                width = mask_NC.shape[1]
                logps_NC, entropies_NC = (rows.batch[name][other.to(mask_NC.device), :width] * mask_NC for name in RECORDED)
            else:
                logps_NC, entropies_NC = self._score_without_gradient(model, completions, other.tolist())
            if not parts:
                # The optimizer must get zero gradients rather than none, as with TRL: its momentum still moves the weights.
                logps_NC = logps_NC + sum(0.0 * weight.flatten()[0] for weight in model.parameters() if weight.requires_grad)
            parts.append((logps_NC, entropies_NC))
            order.append(other)
        places = torch.cat(order).argsort().to(parts[0][0].device)
        logps, entropies = join(parts)
        return logps[places], None if entropies is None else entropies[places]

    def _score_with_gradient(self, model: Any, completions: tuple[Tensor, Tensor], wanted_rows: Tensor) -> tuple[Tensor, Scores]:
        """Scores with a gradient, from the rollout's prefill when it is usable, and their rows: at least `wanted_rows`."""
        assert self.generation is not None
        assert self.generation.rows is not None
        parts = self._split(wanted_rows.tolist())
        is_single = self.accelerator.num_processes == 1 and not self.is_deepspeed_enabled
        if len(parts) > 1 and self.generation.bound and is_single:
            return wanted_rows, score_in_parts([self._part(model, completions, part) for part in parts])
        group_ids, graph = self.generation.rows.group_ids, self.generation.groups.graph
        wanted = {group_ids[row] for row in wanted_rows.tolist()}
        cached = {group for _, groups in graph for group in groups}
        if not wanted <= cached or not bool(completions[1][wanted_rows, 1:].any()):
            return wanted_rows, self._part(model, completions, wanted_rows.tolist())()
        members: dict[int, list[int]] = {}
        for row, group in enumerate(group_ids):
            members.setdefault(group, []).append(row)
        used = [(cache, groups) for cache, groups in graph if wanted & set(groups)]
        rows = [row for _, groups in used for group in groups for row in members[group]]
        with self.accelerator.autocast():
            caches = [cache for cache, _ in used]
            ids_NC, mask_NC = (tensor[rows] for tensor in completions)
            scores = score_after_cache(model, caches, ids_NC, mask_NC, self._base(model), self._letters_of(rows))
        return torch.tensor(rows), scores

    def _score_without_gradient(self, model: Any, completions: tuple[Tensor, Tensor], rows: list[int]) -> Scores:
        """Scores of `rows`, which are whole blocks, part by part."""
        with torch.no_grad():
            return join([self._part(model, completions, part)() for part in self._split(rows)])

    def _letters_of(self, rows: Sequence[int]) -> Letters | None:
        assert self.rows is not None
        return None if self.rows.letters is None else self.rows.letters.of(rows)

    def _split(self, rows: list[int]) -> list[list[int]]:
        """Split `rows`, which are whole blocks, into parts for one forward pass each."""
        assert self.rows is not None
        assert self.generation is not None
        size = max(self.generation.bound, 1) * self.num_generations // self.rows.block * self.rows.block
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _part(self, model: Any, completions: tuple[Tensor, Tensor], rows: list[int]) -> Part:
        """A function that scores `rows`, which are whole blocks, together with their prompts."""
        assert self.generation is not None
        assert self.generation.rows is not None
        ids_NC, mask_NC = (tensor[rows] for tensor in completions)
        if not bool(mask_NC.any()):
            if not self._is_lockstep:
                letters = self._letters_of(rows)
                width = mask_NC.shape[1] + (0 if letters is None else letters.ids_NO.shape[1])
                zeros_NC = torch.zeros(len(mask_NC), width, device=mask_NC.device)
                return lambda: (zeros_NC, zeros_NC)
            mask_NC = mask_NC.clone()
            mask_NC[0, 0] = 1  # other processes wait for this forward pass; no loss uses its score
        with_features = model is not self.ref_model or self._has_one_tower
        group_ids = [self.generation.rows.group_ids[row] for row in rows[:: self.generation.rows.block]]
        prompts, letters = self.generation.groups.prompts(group_ids, with_features=with_features), self._letters_of(rows)

        def compute() -> Scores:
            with self.accelerator.autocast():
                return score_packed(model, prompts, ids_NC, mask_NC, self._base(model), letters)

        return compute

    def _check(
        self, kind: Kind, model: Any, completions: tuple[Tensor, Tensor], needs_grad_B: Tensor, shared_NC: Tensor, use_trl: UseTrl
    ) -> bool:
        """Whether the log-probabilities of up to two groups equal TRL's; if not, TRL's path is used from now on."""
        assert self.rows is not None
        blocks = needs_grad_B.nonzero()[:2, 0].tolist()
        rows = [row for block in blocks for row in range(block * self.rows.block, (block + 1) * self.rows.block)]
        inside = completions[1][rows].bool()
        with torch.no_grad():
            differences = self._compare(model, completions, rows, inside, shared_NC[rows][inside], use_trl)
        self.checked[kind] = [replace(one, found=self._max_over_processes(one.found)) for one in differences]
        for difference in self.checked[kind]:
            if not difference.is_fine:
                return self._report_and_end_sharing(difference)
        if len(self.checked) == 1:
            first = self.checked[kind][0]
            self.log_once(f"prompts are shared within groups: log-probabilities differ by {first.found:.1e} from TRL's own ({first.how})")
        return True

    def _compare(
        self, model: Any, completions: tuple[Tensor, Tensor], rows: list[int], inside: Tensor, shared_S: Tensor, use_trl: UseTrl
    ) -> Sequence[Difference]:
        """The differences of these rows from TRL's own, the most telling first."""
        if not self._is_lockstep:
            # A forward pass of the data-parallel wrapper waits for the other processes, which may have no such kind of batch now.
            model = self.accelerator.unwrap_model(model)
        trl_S = use_trl(rows, model)[0][inside]
        if self._precision == torch.float32:
            return [compare_exactly(trl_S, shared_S)]
        if not self._is_lockstep:
            try:
                twin = exact_twin(model)
                with without_autocast(self.accelerator):
                    exact_S = use_trl(rows, twin)[0][inside]
                    again_S = self._score_exactly(twin, completions, rows)[inside]
                return [compare_exactly(exact_S, again_S), compare_in_half(trl_S, shared_S)]
            except torch.OutOfMemoryError:
                self.log_once("too little memory to compare shared prompts in float32: they are compared with rounding noise")
        return compare_with_noise(trl_S, shared_S, use_trl(rows, model, padding=MORE_PADDING)[0][inside])

    def _score_exactly(self, twin: Any, completions: tuple[Tensor, Tensor], rows: list[int]) -> Tensor:
        """Shared log-probabilities of whole blocks by the code that this update uses, with the weights of `twin`."""
        generation = self.generation
        assert generation is not None
        assert generation.rows is not None
        base = base_of(twin)
        ids_NC, mask_NC = (tensor[rows] for tensor in completions)
        groups = [generation.rows.group_ids[row] for row in rows[:: generation.rows.block]]
        prompts = generation.groups.prompts(groups, with_features=False)
        if generation.groups.graph and generation.rows.block == self.num_generations and bool(mask_NC[:, 1:].any()):
            return score_after_cache(twin, [prefill(base, prompts)], ids_NC, mask_NC, base)[0]
        return score_packed(twin, prompts, ids_NC, mask_NC, base)[0]

    def end_sharing(self) -> None:
        """Use TRL's path from now on."""
        super().end_sharing()
        self.shares_prefix = False

    def _report_and_end_sharing(self, difference: Difference) -> bool:
        """Use TRL's path from now on, and say why."""
        self.end_sharing()
        if self.generation is not None and self.generation.rows is not None:
            self.generation.rows = replace(self.generation.rows, block=0)
        logger.warning(
            "SHARED PREFIXES ARE OFF: log-probabilities differ by %.1e from TRL's own (%s) and %.1e is allowed. The run goes on without "
            "them: set [trainer] share_prefix = false and report this",
            difference.found,
            difference.how,
            difference.allowed,
        )
        return False
