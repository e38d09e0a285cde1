"""Whether the policy answers as well without looking: a few questions of a rollout, greedily, with their images and with blank ones.

Nothing is drawn at random and no gradient is kept, so a training that is watched makes the same steps as one that is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from trl.models import unwrap_model_for_generation

from osler.images.blank import blank_like
from osler.training.rollout_figures import Answered, read_answers

WATCHED_QUESTIONS: Final = 8
"""Questions of a process that are asked at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """How often a training has asked, and when it did last. A rollout may last several steps, so it need not begin at a multiple."""

    times: int = 0
    last: int | None = None  # step

    def is_due(self, step: int, every: int) -> bool:
        """Whether a rollout that begins at `step` is the first at or after a multiple of `every`; never for 0."""
        return every > 0 and (self.last is None or step // every > self.last // every)

    def after(self, step: int) -> Watched:
        """The same once it has asked at `step`."""
        return Watched(times=self.times + 1, last=step)


def pick_questions(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first different questions of a rollout that have images."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["images"]:
            first.setdefault(row["sample_id"], row)
    return list(first.values())[:WATCHED_QUESTIONS]


def ask_with_blank_images(trainer: Any, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Answered, Answered]]:
    """The answers to questions with their images, and with blank ones of the same size."""
    asked = [*rows, *({**row, "images": [blank_like(image) for image in row["images"]]} for row in rows)]
    answered = read_answers(asked, _write_greedily(trainer, asked))
    return list(zip(answered[: len(rows)], answered[len(rows) :], strict=True))


def _write_greedily(trainer: Any, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    from transformers import GenerationConfig

    processor, tokenizer = trainer.processing_class, trainer._tokenizer
    options = {"add_generation_prompt": True, "chat_template": trainer.chat_template, **trainer.chat_template_kwargs}
    texts = [processor.apply_chat_template(row["prompt"], tokenize=False, **options) for row in rows]
    batch = processor(
        text=texts,
        images=[image for row in rows for image in row["images"]],
        padding=True,
        padding_side="left",
        return_tensors="pt",
        add_special_tokens=False,
    )
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=trainer.max_completion_length,
        eos_token_id=trainer.eos_token_ids,
        pad_token_id=tokenizer.pad_token_id,
    )
    is_training = trainer.model.training
    trainer.model.eval()
    try:
        with (
            unwrap_model_for_generation(
                trainer.model_wrapped,
                trainer.accelerator,
                gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
            trainer.accelerator.autocast(),
        ):
            written = model.generate(**batch.to(trainer.accelerator.device), generation_config=greedy)
    finally:
        trainer.model.train(is_training)
    new = written[:, batch["input_ids"].shape[1] :]
    decoded: list[str] = processor.batch_decode(new, skip_special_tokens=True)
    return decoded
