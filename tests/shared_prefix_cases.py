"""Models, prompts, completions and short trainings for the tests of shared prefixes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_runs import recipe, solid_sample
from tiny_checkpoint import make_model, make_processor
from trl.trainer.utils import add_fused_lm_head

from osler.policies.load import load_policy
from osler.policies.quiet import quiet_training
from osler.prompts import render
from osler.training.arguments import grpo_arguments
from osler.training.grpo import build_trainer
from osler.training.shared_prefix.groups import Groups, collect
from osler.training.shared_prefix.packed_row import PromptBatch

G = 3
ONE = [solid_sample((40, 112))]
UNLIKE = [solid_sample((40, 112)), solid_sample((200, 56))]
PAIR = [solid_sample((0, 56), (160, 84)), solid_sample((80, 84))]


_ASKED = (*UNLIKE, *PAIR, solid_sample((120, 84)), solid_sample((250, 112)))
_SAME = 4  # from here on the question is the same, and its answers differ
SAMPLES = tuple(
    replace(sample, target="AB"[number % 2], question=sample.question if number < _SAME else "Greys end?")
    for number, sample in enumerate(_ASKED)
)


def make_sharp(model_type: str) -> Any:
    """A model that `sharpen` has seen, with TRL's head."""
    model = make_model(model_type)
    sharpen(model)
    add_fused_lm_head(model, temperature=0.8, outputs=("log_probs", "entropy"))
    return model


def sharpen(model: Any) -> None:
    """Make weights so large that a wrong position or a leak shows."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(r"language_model.*(q_proj|k_proj)\.weight|embed_tokens", name):
                weight.mul_(3)
            elif name.endswith("bias"):
                weight.normal_(0, 0.3)


def read_prompts(model_type: str, samples: list[Any]) -> PromptBatch:
    return read_groups(model_type, samples).prompts(range(len(samples)))


def read_groups(model_type: str, samples: list[Any]) -> Groups:
    processor = make_processor(model_type)
    messages = [render(sample, "no_think", phase="train").messages for sample in samples]
    texts = [processor.apply_chat_template(list(message), add_generation_prompt=True, tokenize=False) for message in messages]
    images = [[source.load() for source in sample.images] for sample in samples]
    inputs = processor(text=texts, images=[image for own in images for image in own])
    return collect(inputs["input_ids"], images, inputs, G, processor.tokenizer.pad_token_id, torch.device("cpu"))


def make_completions(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids_NC = torch.randint(0, 250, (len(lengths), max(lengths)), generator=generator)
    return ids_NC, (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def score_plainly(model: Any, prompts: PromptBatch, num_images: list[int], ids_NC: torch.Tensor, mask_NC: torch.Tensor) -> Any:
    """Every completion behind its whole prompt, as TRL scores it."""
    rows = torch.arange(len(num_images)).repeat_interleave(len(ids_NC) // len(num_images))
    grids = torch.split(prompts.image_grid_thw, num_images)
    patches = torch.split(prompts.pixel_values, [int(grid.prod(1).sum()) for grid in grids])
    input_ids = torch.cat([prompts.ids_BP[rows], ids_NC], 1)
    attention_mask = torch.cat([prompts.mask_BP[rows], mask_NC], 1)
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    labels[:, : -ids_NC.shape[1]] = -100
    outputs = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        mm_token_type_ids=torch.cat([prompts.types_BP[rows], torch.zeros_like(ids_NC)], 1),
        pixel_values=torch.cat([patches[row] for row in rows]),
        image_grid_thw=torch.cat([grids[row] for row in rows]),
        labels=labels,
        fused_lm_head=True,
    )
    return outputs.log_probs[:, -ids_NC.shape[1] :], outputs.entropy[:, -ids_NC.shape[1] :]


def with_gradient(model: Any, scored: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    logps, entropies = scored
    weights = torch.linspace(-1, 1, logps.numel()).view_as(logps)
    model.zero_grad()
    (logps * weights).sum().backward()
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    return logps.detach(), entropies.detach(), gradient


def pay(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that follows from the tokens."""
    return [sum(token * 7919 % 97 for token in tokens) % 13 / 13 for tokens in completion_ids]


def pay_some(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Nothing to learn in every second group."""
    return [row // 2 % 2 * reward for row, reward in enumerate(pay(completion_ids))]


def pay_nothing(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Nothing to learn at all."""
    return [0.0] * len(completion_ids)


def run(
    folder: Path,
    reward: Any,
    grpo: dict[str, Any],
    sections: dict[str, Any],
    *,
    share: bool,
    samples: Sequence[Any] = SAMPLES,
    prepare: Callable[[Any], None] | None = None,
) -> Any:
    steps = {"max_steps": 2, "save_strategy": "no", "entropy_coef": 0.0, "learning_rate": 1e-4, **grpo}
    sections = {"sampling": {"max_completion_length": 8, **sections.pop("sampling", {})}, **sections}
    own = sections.pop("trainer", {})
    config = recipe(folder, grpo=steps, trainer={"share_prefix": True, **own} if share else {"share_prefix": False}, **sections)
    prompts = [render(sample, "no_think", phase="train") for sample in samples]
    written: list[list[list[int]]] = []

    def watch(completion_ids: list[list[int]], **others: Any) -> list[float]:
        written.append(completion_ids)
        rewards: list[float] = reward(completion_ids, **others)
        return rewards

    policy = load_policy(config.policy)
    policy.model.generation_config.eos_token_id += list(range(0, 256, 11))  # so that completions end at different times
    torch.manual_seed(0)
    with quiet_training():
        trainer = build_trainer(config, policy, prompts, [watch], grpo_arguments(config, Path("run")))
        if prepare is not None:
            prepare(trainer)
        trainer.train()
    logged = [line for line in trainer.state.log_history if "loss" in line]
    return trainer, written, logged, {name: weight.detach() for name, weight in trainer.model.named_parameters()}
