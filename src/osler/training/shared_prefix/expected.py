"""GRPO with expectations in place of samples, `[trainer] expectation`: what can be computed of a question's answers is not drawn.

- `enumerated`, for strategies that answer first: a group is every answer once, behind the one cached prompt. Without reasoning nothing is
  generated at all; with reasoning after the answer, each answer's reasoning is sampled. While the answers together are less probable than
  `min_mass`, the policy does not know the format yet, and the step is sampled.
- `partial`, for strategies that reason first: completions are sampled, and of each the letter is replaced by its expectation.

The rollout notes in TRL's batch what each row stands for, `expectation` makes log-probabilities and advantages of it in the update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import pad

from osler.errors import ConfigError, PolicyError
from osler.training.answer_tokens import AnswerTokens, share_rows
from osler.training.curriculum import Curriculum
from osler.training.expectation import (
    Expected,
    Penalty,
    expect_branches,
    expect_letters,
    moments,
    reward_outside,
    sampled_tokens,
    share_answer,
    total_deviation,
)
from osler.training.kept_completions import EnumeratedRow
from osler.training.shared_prefix.attention import PromptCache
from osler.training.shared_prefix.packed_row import Letters, branch_logps
from osler.training.shared_prefix.rollout import Decoding, Rollout, decode
from osler.training.shared_prefix.trainer import SharedPrefixGRPOTrainer
from osler.types import LETTERS

NOTHING: Final = -1
"""Stands for no place and no token."""
DIVIDE_BY_LENGTH: Final = ("grpo", "sapo")
"""TRL's losses that divide the sum over a completion's tokens by their number."""

ZERO: Final = 1e-6
"""A smaller deviation of rewards counts as none in what is logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The settings of `[trainer]` about expectations."""

    kind: Literal["enumerated", "partial"]
    min_mass: float = 0.9  # enumerated: mean probability of all answers together, below which a step is sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """The answers of a rollout, G rows for each question; rows beyond the answers that need them stand for nothing."""

    ids_NT: Tensor  # the tokens of each row's answer; -1 behind them
    num_tokens_N: Tensor  # 0 for a row that stands for nothing
    answers_N: Tensor  # the number of its answer
    weights_N: Tensor  # probability of the answer, shared by its rows
    is_whole: bool  # whether the answers are complete completions


def lay_out(begins: Sequence[Sequence[Sequence[int]]], numbers: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """The tokens [N, T] of the answers with these numbers, for each question its rows; -1 behind them and where nothing stands."""
    rows = [own[number] if number != NOTHING else () for own, some in zip(begins, numbers, strict=True) for number in some]
    ids_NT: Tensor = pad([torch.tensor(row, dtype=torch.long) for row in rows], padding_value=NOTHING, padding_side="right")
    return ids_NT.to(device)


class ExpectedGRPOTrainer(SharedPrefixGRPOTrainer):
    """Osler's GRPO trainer with shared prompts and expectations."""

    beta: float
    current_gradient_accumulation_steps: int

    def __init__(self, *args: Any, expectation: Expectation, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.shares_prefix:
            raise ConfigError(f'[trainer] expectation = "{expectation.kind}" needs shared prefixes: set it to "sampled"')
        self.expectation = expectation
        self._answers = AnswerTokens(self._tokenizer)
        if expectation.kind == "enumerated":
            if not self.shares_rollout:
                raise ConfigError(
                    '[trainer] expectation = "enumerated" needs Osler\'s own rollout: leave out [grpo] pad_to_multiple_of, '
                    'cache_implementation and continuous batching, or set it to "sampled"'
                )
            self._require_room(self.train_dataset[0])
        self._rows: Sequence[Any] = ()  # of the dataset, one for each completion of the rollout
        self._branches: Branches | None = None  # of the rollout, unless it is sampled
        self._written_letters: Letters | None = None  # of its completions, for a partial expectation
        self._expected: Expected | None = None  # of the update

    def _require_room(self, row: Any) -> None:
        """Raise ConfigError where the answers of a question are longer than a completion may be."""
        length = max(map(len, self._answers.begins(row["strategy"], len(row["choices"]))))
        if length > self.max_completion_length:
            limit = f"[sampling] max_completion_length is {self.max_completion_length}"
            raise ConfigError(f"an answer has {length} tokens and {limit}: set it to {length} or more")

    @property
    def skips_zeros(self) -> bool:
        """No completion can be skipped: advantages follow from probabilities that the update computes."""
        return False

    @property
    def keeps_groups(self) -> bool:
        """Always: an expectation is over a whole group."""
        return True

    @property
    def draws_completions(self) -> bool:
        """Not where each answer stands in one row, however probable it is."""
        return self._branches is None

    @property
    def enumerated_rows(self) -> list[EnumeratedRow]:
        """The answer of each row, where a rollout holds all of them."""
        if self._branches is None:
            return []
        rows = zip(self._branches.answers_N.tolist(), self._branches.weights_N.tolist(), strict=True)
        return [EnumeratedRow(letter=None if number == NOTHING else LETTERS[number], weight=weight) for number, weight in rows]

    def _roll_out_groups(self, inputs: Any) -> Any:
        self._rows, self._branches, self._written_letters = inputs, None, None
        output = super()._roll_out_groups(inputs)
        if self.generation is None or "group_id" not in output:
            raise PolicyError(f'a batch was not made of whole groups, which [trainer] expectation = "{self.expectation.kind}" needs')
        if self._branches is not None:
            self._note_branches(output, self._branches)
            self._correct_metrics(self._branches.weights_N)
        elif self._written_letters is not None:
            output |= {"own_rewards": self._own_rewards_N, "letter_rewards": self._letter_rewards_NO}
            output |= {"letter_place": self._written_letters.place_N, "letter_ids": self._written_letters.ids_NO}
            if self.beta:
                output["ref_letter_logps"] = self._ref_letter_logps_NO
            self._metrics["train"]["partial/letters"].append(self._mean((self._written_letters.place_N >= 0).float()))
        return output

    def _write(self, model: Any, caches: tuple[PromptCache, ...], decoding: Decoding) -> Rollout:
        if self.expectation.kind == "partial":
            return super()._write(model, caches, decoding)
        branches = self._enumerate(model, caches)
        mass = self._mean(branches.weights_N.view(-1, self.num_generations).sum(dim=1))
        is_sampled = mass < self.expectation.min_mass
        self._metrics["train"]["enumerated/mass"].append(mass)
        self._metrics["train"]["enumerated/sampled_steps"].append(float(is_sampled))
        if is_sampled:
            return super()._write(model, caches, decoding)
        self._branches = branches
        if branches.is_whole:
            rows = zip(branches.ids_NT.tolist(), branches.num_tokens_N.tolist(), strict=True)
            written = [ids[:length] for ids, length in rows]
            # A row that stands for nothing repeats the first answer, because TRL wants a completion of every row.
            written = [ids or written[row - row % self.num_generations] for row, ids in enumerate(written)]
            return Rollout(completion_ids=written, caches=caches)
        return decode(
            *(model, caches, self.num_generations, decoding),
            scores=self.uses_rollout_logps,
            begins_NT=branches.ids_NT,
            decoders=self.decoders,
        )

    def _enumerate(self, model: Any, caches: tuple[PromptCache, ...]) -> Branches:
        """Every answer of every question with its probability; before reasoning, the likelier answers in more rows."""
        times, device = self.num_generations, caches[0].next_B.device
        asked = self._rows[::times]
        begins = [self._answers.begins(row["strategy"], len(row["choices"])) for row in asked]
        is_whole = self._answers.is_whole(asked[0]["strategy"])
        numbers = [[*range(len(own)), *[NOTHING] * (times - len(own))] for own in begins]
        ids_NT = lay_out(begins, numbers, device)
        logps_NT = branch_logps(model, caches, ids_NT.clamp(min=0), ids_NT >= 0, self.temperature)
        probs_BG = logps_NT.sum(dim=1).exp().view(-1, times)
        if not is_whole:
            counts = [share_rows(row[: len(own)], times) for row, own in zip(probs_BG.tolist(), begins, strict=True)]
            numbers = [[option for option, count in enumerate(own) for _ in range(count)] for own in counts]
            ids_NT = lay_out(begins, numbers, device)
        answers_BG, num_tokens_N = torch.tensor(numbers, device=device), (ids_NT >= 0).sum(dim=1)
        same_BGG = share_answer(num_tokens_N.view(-1, times), answers_BG)
        shared_BG = probs_BG.gather(1, answers_BG.clamp(min=0)) / same_BGG.sum(dim=2).clamp(min=1)
        return Branches(
            ids_NT=ids_NT,
            num_tokens_N=num_tokens_N,
            answers_N=answers_BG.flatten(),
            weights_N=torch.where(answers_BG >= 0, shared_BG, 0.0).flatten(),
            is_whole=is_whole,
        )

    def _note_branches(self, output: dict[str, Any], branches: Branches) -> None:
        """Put into TRL's batch what each row stands for, and log expectations in place of the means over rows."""
        is_row_N = branches.num_tokens_N > 0
        output["completion_mask"] = output["completion_mask"] * is_row_N[:, None]
        output |= {"own_rewards": self._own_rewards_N, "branch_tokens": branches.num_tokens_N, "branch_answer": branches.answers_N}
        # Losses that divide by the number of tokens get that of a sampled batch.
        num_tokens = sampled_tokens(branches.weights_N, output["completion_mask"], self.num_generations)
        output["num_items_in_batch"] = self.accelerator.gather(num_tokens).sum().round().long()

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        completion_ids, logps = super()._generate_single_turn(*args, **kwargs)
        if self.expectation.kind == "partial" and self.generation is not None and self.generation.rows is not None:
            self._written_letters = self._find_letters(completion_ids)
            self.generation.rows = replace(self.generation.rows, letters=self._written_letters)
        return completion_ids, logps

    def _find_letters(self, completion_ids: Sequence[Sequence[int]]) -> Letters:
        """Where completions have the letter of their answer, and the tokens of the other options."""
        found = [
            self._answers.find_letter(ids, row["strategy"], len(row["choices"]))
            for ids, row in zip(completion_ids, self._rows, strict=True)
        ]
        width = max(len(row["choices"]) for row in self._rows)
        ids = [(own[1] if own is not None else []) for own in found]
        return Letters(
            place_N=torch.tensor([NOTHING if own is None else own[0] for own in found], device=self.accelerator.device),
            ids_NO=torch.tensor([row + [NOTHING] * (width - len(row)) for row in ids], device=self.accelerator.device),
        )

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        rewards_NF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if not self.model.training or self.generation is None or self.generation.rows is None:
            return rewards_NF
        self._rewards_NF = rewards_NF
        self._own_rewards_N = self._sum(self._own_rows(rewards_NF, len(inputs)))
        if self._written_letters is not None:
            self._letter_rewards_NO = self._reward_letters(self._written_letters, inputs, prompts, completion_ids_list)
            self._ref_letter_logps_NO = self.generation.ref_letter_logps_NO
        return rewards_NF

    def _record(self, curriculum: Curriculum, sample_ids: Sequence[str], rewards_N: Tensor) -> None:
        if self._branches is None:
            super()._record(curriculum, sample_ids, rewards_N)
            return
        curriculum.check(sample_ids, rewards_N.tolist(), self.reward_func_names[0])
        weights_BG = self.accelerator.gather(self._branches.weights_N).view(-1, self.num_generations)
        rewards_BG = rewards_N.view_as(weights_BG)
        means_B, variances_B = moments(weights_BG, rewards_BG, 0.0)
        for sample_id, mean, variance in zip(sample_ids[:: self.num_generations], means_B.tolist(), variances_B.tolist(), strict=True):
            if not math.isnan(mean):  # the reward does not apply to the question
                curriculum.count(sample_id, self.num_generations, mean, variance)

    def _sum(self, rewards_NF: Tensor) -> Tensor:
        total_N: Tensor = (rewards_NF * self.reward_weights.to(rewards_NF.device)).nansum(dim=1)  # a reward that does not apply is NaN
        return total_N

    def _reward_letters(self, letters: Letters, inputs: Any, prompts: Any, completion_ids: Sequence[Sequence[int]]) -> Tensor:
        """The reward [N, O] of each completion with each option's letter in the place of its own.

        Rewards may depend on their batch, so all completions are rewarded together, once for each option.
        """
        logged = {name: [*values] for name, values in self._pending_metrics.items()}
        extra = {name: [*values] for name, values in self._pending_extra_logs.items()}
        places, tokens_ON, columns = letters.place_N.tolist(), letters.ids_NO.T.tolist(), []
        for number in range(self._most(len(tokens_ON))):  # TRL gathers rewards from all processes, so each asks as often
            tokens_N = tokens_ON[number] if number < len(tokens_ON) else [NOTHING] * len(places)
            written = [
                [*ids] if token == NOTHING else [*ids[:place], token, *ids[place + 1 :]]
                for ids, place, token in zip(completion_ids, places, tokens_N, strict=True)
            ]
            turns = [
                [{"role": "assistant", "content": text}] for text in self.processing_class.batch_decode(written, skip_special_tokens=True)
            ]
            found_NF = GRPOTrainer._calculate_rewards(self, inputs, prompts, turns, written)
            columns.append(self._sum(self._own_rows(found_NF, len(inputs))))
        for pending, before in ((self._pending_metrics, logged), (self._pending_extra_logs, extra)):
            pending.clear()  # what rewards log is of completions that were written
            pending.update(before)
        return torch.stack(columns[: len(tokens_ON)], dim=1)

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        self._expected, beta = None, self.beta
        self.beta = 0.0 if "own_rewards" in inputs else beta  # TRL's penalty has the same weight for every row
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        if self._expected is None:
            return loss
        expected, mask_NC = self._expected, inputs["completion_mask"]
        self._expected = None
        self._log(expected)
        if expected.penalty_NC is not None:
            loss = loss + beta * self._divide(expected.penalty_NC, mask_NC, inputs) * self._token_factor(expected, mask_NC)
            kl = (expected.penalty_NC.detach() * mask_NC).sum() / (mask_NC.sum() if expected.num_tokens is None else expected.num_tokens)
            self._metrics["train"]["kl"].append(self._mean(kl))
        return loss + self._compare_images(model, inputs, expected)

    def _compare_images(self, _model: Any, _inputs: Any, _expected: Expected) -> Tensor | float:
        """A term of the loss that a subclass adds."""
        return 0.0

    def _divide(self, values_NC: Tensor, mask_NC: Tensor, batch: Any) -> Tensor:
        """The sum over tokens divided by what TRL's loss divides by."""
        total_N, parts = (values_NC * mask_NC).sum(dim=1), self.current_gradient_accumulation_steps
        num_rows, divided = len(total_N), total_N.sum()
        if self.loss_type in DIVIDE_BY_LENGTH:
            divided = (total_N / mask_NC.sum(dim=1).clamp(min=1)).sum() / num_rows
        elif self.loss_type == "bnpo":
            divided = divided / mask_NC.sum().clamp(min=1)
        elif self.loss_type == "dr_grpo":
            divided = divided / (num_rows * self.max_completion_length)
        elif self.loss_type == "luspo":
            divided = divided / num_rows
        else:
            num_tokens = batch["num_items_in_batch"].clamp(min=1) / self.accelerator.num_processes
            divided = divided / num_tokens * self.args.steps_per_generation
        return divided / parts

    def _token_factor(self, expected: Expected, mask_NC: Tensor) -> Tensor | float:
        """For a loss that divides by the tokens of its rows, where these are no samples: rows by expected tokens."""
        return mask_NC.sum() / expected.num_tokens if self.loss_type == "bnpo" and expected.num_tokens is not None else 1.0

    def _take_expectation(self, batch: dict[str, Any], logps_NC: Tensor, letter_logps_NO: Tensor | None, mask_NC: Tensor) -> Tensor:
        if "own_rewards" not in batch:
            return logps_NC
        penalty = None
        if (ref_logps_NC := batch.get("ref_per_token_logps")) is not None:
            corrected = self.args.use_bias_correction_kl
            penalty = Penalty(ref_logps_NC=ref_logps_NC, ref_letter_logps_NO=batch.get("ref_letter_logps"), is_corrected=corrected)
        common: dict[str, Any] = {
            "rewards_N": batch["own_rewards"],
            "num_generations": self.num_generations,
            "scale": self.scale_rewards,
            "old_logps_NC": batch.get("old_per_token_logps"),
            "penalty": penalty,
        }
        if letter_logps_NO is None:
            expected = expect_branches(
                logps_NC,
                mask_NC,
                num_tokens_N=batch["branch_tokens"],
                answers_N=batch["branch_answer"],
                divides_by_length=self.loss_type in DIVIDE_BY_LENGTH,
                **common,
            )
        else:
            expected = expect_letters(
                logps_NC,
                letter_logps_NO,
                place_N=batch["letter_place"],
                known_NO=batch["letter_ids"] != NOTHING,
                letter_rewards_NO=batch["letter_rewards"],
                **common,
            )
        batch["advantages"] = expected.advantages_NC * self._token_factor(expected, mask_NC)
        batch["old_per_token_logps"] = expected.old_logps_NC
        self._expected = expected
        return expected.logps_NC

    def _correct_metrics(self, weights_N: Tensor) -> None:
        """Expectations in place of what TRL logged: means over rows that are not equally probable."""
        metrics, times = self._metrics["train"], self.num_generations
        all_weights_BG = self.accelerator.gather(weights_N).view(-1, times)
        named = [("reward", "reward_std", self._sum(self._rewards_NF))]
        named += [
            (f"rewards/{name}/mean", f"rewards/{name}/std", rewards_N)
            for name, rewards_N in zip(self.reward_func_names, self._rewards_NF.T, strict=True)
        ]
        for mean_name, deviation_name, rewards_N in named:
            rewards_BG = rewards_N.view(-1, times)
            rewards_BG = rewards_BG[~rewards_BG.isnan().any(dim=1)]  # of questions to which it applies
            weights_BG = all_weights_BG[~rewards_N.view(-1, times).isnan().any(dim=1)]
            mean_B, variance_B = moments(weights_BG, rewards_BG, reward_outside(rewards_BG, weights_BG > 0))
            metrics[mean_name][-1], metrics[deviation_name][-1] = float(mean_B.mean()), float(total_deviation(mean_B, variance_B))
            if mean_name == "reward":
                metrics["frac_reward_zero_std"][-1] = float((variance_B.sqrt() < ZERO).float().mean())

    def _log(self, expected: Expected) -> None:
        metrics, kind = self._metrics["train"], self.expectation.kind
        metrics[f"{kind}/reward"].append(self._mean(expected.rewards_B))
        metrics[f"{kind}/frac_reward_zero_std"].append(self._mean((expected.deviations_B < ZERO).float()))

    def _mean(self, values: Tensor) -> float:
        """The mean over all processes, which have equally many values."""
        return float(self.accelerator.gather(values).mean())

    def _most(self, number: int) -> int:
        """The largest of the numbers of all processes."""
        return int(self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max())

    def end_sharing(self) -> None:
        """Expectations need shared prompts. Raises PolicyError."""
        raise PolicyError(
            "shared prompts differ from TRL's own log-probabilities, and [trainer] expectation needs them: "
            'set it to "sampled" and share_prefix = false, and report this'
        )
