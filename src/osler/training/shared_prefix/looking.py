"""`[rewards] looking`: what a policy earns for a question with its image, minus what it earns for it with an image of another answer.

The twin of a question has the images of another case, which answers the same question differently. A step with enumerated answers
scores each answer behind the twin's prompt as well, and nothing is generated. A question without such a case has no twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from trl import GRPOTrainer

from osler.data.donors import find_contradicting
from osler.training.dataset import ImageCache
from osler.training.expectation import Expected, given_an_answer
from osler.training.rollout_state import RolloutSizes, RolloutState
from osler.training.shared_prefix.expected import ExpectedGRPOTrainer
from osler.training.shared_prefix.gradient_cache import score_in_parts
from osler.training.shared_prefix.groups import Groups, Scores, collect, group_tensors, read_groups
from osler.training.shared_prefix.packed_row import score_packed
from osler.training.tensor_file import TensorFile
from osler.types import Sample

TWIN: Final = "twin"
"""Begins the names of the twins' tensors in a checkpoint."""


class Twins:
    """The images of another case with another answer, for each training question that has one."""

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        donors = zip(samples, find_contradicting(samples, seed=seed), strict=True)
        self._sources = {sample.id: donor.images for sample, donor in donors if donor is not None}
        self._cache = ImageCache()

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self._sources

    def images(self, sample_id: str) -> list[Any]:
        """The decoded images that stand in for those of a question. Raises KeyError for a question without a twin."""
        return [self._cache.load(source) for source in self._sources[sample_id]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """The setting of `[rewards]` and the images it needs."""

    weight: float
    twins: Twins


class LookingGRPOTrainer(ExpectedGRPOTrainer):
    """Osler's GRPO trainer with enumerated answers, which subtracts what they earn with another image."""

    epsilon_high: float

    def __init__(self, *args: Any, looking: Looking, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.looking = looking
        self._twins: Groups | None = None  # of the rollout's questions; one without a twin keeps its own images there
        self._twin_bound = 0  # groups in one forward pass

    def _bound(self, groups: Groups) -> int:
        bound = super()._bound(groups)
        return bound if self.sharing.groups_per_forward else (bound + 1) // 2  # an update keeps the graphs of both prompts

    def _tokenize_prompts(self, prompts: Any) -> Any:
        if self.model.training:
            self._twins = self._collect_twins(prompts[:: self.num_generations])
        return super()._tokenize_prompts(prompts)

    def _collect_twins(self, prompts: Sequence[Any]) -> Groups:
        """The prompts of the questions with the images of their twins."""
        asked = self._rows[:: self.num_generations]
        twins = self.looking.twins
        changed = [
            _replace_images(prompt, twins.images(row["sample_id"])) if row["sample_id"] in twins else prompt
            for prompt, row in zip(prompts, asked, strict=True)
        ]
        ids, images, fields = GRPOTrainer._tokenize_prompts(self, changed)
        groups = collect(ids, images, fields, self.num_generations, self._tokenizer.pad_token_id, self.accelerator.device)
        if self.vision is not None and images is not None:
            with self.accelerator.autocast():
                groups.encode_images(self.vision, self.sharing.groups_per_forward)
        return groups

    def _note_branches(self, output: dict[str, Any], branches: Any) -> None:
        super()._note_branches(output, branches)
        has_twin = [row["sample_id"] in self.looking.twins for row in self._rows]
        output["has_twin"] = torch.tensor(has_twin, device=self.accelerator.device).long()

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        if self.generation is not None:
            self._twin_bound = self.generation.bound
        return super()._compute_loss(model, inputs)

    def _compare_images(self, model: Any, inputs: Any, expected: Expected) -> Tensor | float:
        if "has_twin" not in inputs:
            return 0.0
        mask_NC, times, has_twin_N = inputs["completion_mask"], self.num_generations, inputs["has_twin"].bool()
        logps_NC, has_twin_B = self._score_twins(model, inputs), has_twin_N[::times]
        rewards_N, num_tokens_N = inputs["own_rewards"][has_twin_N], inputs["branch_tokens"][has_twin_N]
        earned_B, means_B = given_an_answer(logps_NC[has_twin_N], rewards_N, num_tokens_N, times, self.scale_rewards)
        earned_B = torch.zeros(len(has_twin_B), device=earned_B.device, dtype=earned_B.dtype).masked_scatter(has_twin_B, earned_B)
        total, count = self.accelerator.gather(torch.stack([means_B.sum(), has_twin_B.sum()]).view(1, 2)).sum(dim=0).tolist()
        self._metrics["train"]["looking/twins"].append(count / (len(has_twin_B) * self.accelerator.num_processes))
        if count:
            self._metrics["train"]["looking/reward"].append(total / count)
        # As for as many samples of each question as there are rows: in the first tokens of its answers, which are divided like all others.
        is_row_BG = mask_NC[:, 0].view(-1, times)
        values_BG = is_row_BG * (times * earned_B / is_row_BG.sum(dim=1))[:, None]
        values_NC = torch.nn.functional.pad(values_BG.view(-1, 1), (0, mask_NC.shape[1] - 1))
        factor = min(1.0, self.epsilon_high) if self.loss_type == "cispo" else 1.0  # with which cispo weighs every token
        return self.looking.weight * factor * self._divide(values_NC, mask_NC, inputs) * self._token_factor(expected, mask_NC)

    def _score_twins(self, model: Any, inputs: Any) -> Tensor:
        """Log-probabilities [N, C] of the answers behind the twins' prompts."""
        assert self._twins is not None
        groups, size = inputs["group_id"][:: self.num_generations].tolist(), self._twin_bound
        is_single = self.accelerator.num_processes == 1 and not self.is_deepspeed_enabled
        if not size or not is_single:
            size = len(groups)
        parts = [self._twin_part(model, inputs, groups, start, start + size) for start in range(0, len(groups), size)]
        return (parts[0]() if len(parts) == 1 else score_in_parts(parts))[0]

    def _twin_part(self, model: Any, inputs: Any, groups: Sequence[int], start: int, end: int) -> Any:
        assert self._twins is not None
        rows = slice(start * self.num_generations, end * self.num_generations)
        prompts = self._twins.prompts(groups[start:end])
        ids_NC, mask_NC = inputs["completion_ids"][rows], inputs["completion_mask"][rows]

        def compute() -> Scores:
            with self.accelerator.autocast():
                return score_packed(model, prompts, ids_NC, mask_NC, self._base(model))

        return compute

    def rollout_tensors(self) -> dict[str, Tensor]:
        """What remains of the rollout, for a checkpoint, with its groups and their twins."""
        return super().rollout_tensors() | ({} if self._twins is None else group_tensors(self._twins, TWIN))

    def restore_rollout(self, file: TensorFile, state: RolloutState) -> None:
        """Take back what `rollout_tensors` gave. Raises DataError for a file of other tensors."""
        super().restore_rollout(file, state)
        if file.has(f"{TWIN}/0/ids"):
            sizes = RolloutSizes.of(self, self._base(self.model).config)
            pad_id, device = self._tokenizer.pad_token_id, self.accelerator.device
            self._twins = read_groups(file, sizes, self.num_generations, pad_id, device, TWIN)


def _replace_images(messages: Sequence[dict[str, Any]], images: Sequence[Any]) -> list[dict[str, Any]]:
    """The messages with other images, in their order."""
    rest = iter(images)

    def change(part: dict[str, Any]) -> dict[str, Any]:
        return {**part, "image": next(rest)} if part["type"] == "image" else part

    return [
        message if isinstance(message["content"], str) else {**message, "content": [change(part) for part in message["content"]]}
        for message in messages
    ]
