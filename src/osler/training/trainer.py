"""TRL's trainers with Osler's overrides.

TRL 1.16 generates, scores, pairs images with their rows and updates. Changed here, and why:

- The order of the questions depends on the seed and the epoch only, so a run that resumes in its second epoch asks the same questions as an
  uninterrupted one. TRL's sampler restarts with the order of the first epoch.
- The weights of a checkpoint are loaded with `from_pretrained`, and strictly. Transformers saves Qwen2-VL's weights under their published
  names; its Trainer looks for the names in memory, finds none, warns, and continues from the starting weights.
- SFT restores the token count of a checkpoint.
- Completions can be printed to standard error during training.
- Med-R1's published SFT has labels for the prompt too, except its vision tokens.
- No model card is written into checkpoints, and no telemetry is sent.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from accelerate.utils import is_peft_model
from trl import GRPOTrainer, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling
from trl.trainer.utils import RepeatSampler

from osler.training.callbacks import write_above_bar

PROMPT_TAIL: Final = 200
"""Characters of a prompt that are printed with a completion."""


class EpochSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's sampler with an order that depends on the seed and the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Seed the order; the training loop calls this before each epoch."""
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


class _Overrides:
    """Overrides of both trainers."""

    model: Any
    is_fsdp_enabled: bool

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if model is not None or self.is_fsdp_enabled or is_peft_model(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        stored = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(stored.state_dict())

    def _send_telemetry(self) -> None:
        """Send nothing: training in a hospital must not report to outside."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write nothing: the run's own files describe the training."""


class OslerGRPOTrainer(_Overrides, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO. One completion is printed every `print_completions_every` steps; 0: never."""

    def __init__(self, *args: Any, print_completions_every: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.print_completions_every = print_completions_every
        self._next_print = 0

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        dataset = self.train_dataset if dataset is None else dataset
        return EpochSampler(
            dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        step = self.state.global_step
        if self.print_completions_every and step >= self._next_print and self.accelerator.is_main_process:
            self._next_print = step + self.print_completions_every
            scores = dict(zip(self.reward_func_names, rewards[0].tolist(), strict=True))
            write_above_bar(format_completion(step, inputs[0]["sample_id"], prompts[0], completions[0], scores))
        return rewards


class OslerSFTTrainer(_Overrides, SFTTrainer):  # type: ignore[misc]
    """TRL's SFT."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        logged = [entry["num_tokens"] for entry in self.state.log_history if "num_tokens" in entry]
        self._total_train_tokens = int(logged[-1]) if logged else 0


class VisibleTextCollator(DataCollatorForVisionLanguageModeling):  # type: ignore[misc]
    """TRL's collator with a label for every token of the conversation except vision tokens."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The tensors of a batch with their labels."""
        batch: dict[str, Any] = super().torch_call(examples)
        names = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
        vision_ids = torch.tensor(self.processor.tokenizer.convert_tokens_to_ids(list(names)))
        batch["labels"][torch.isin(batch["labels"], vision_ids)] = -100
        return batch


def format_completion(
    step: int, sample_id: str, prompt: list[dict[str, Any]], completion: list[dict[str, Any]], rewards: dict[str, float]
) -> str:
    """One completion as text: the end of the prompt, the completion, its rewards."""
    asked, written = message_text(prompt)[-PROMPT_TAIL:], message_text(completion)
    earned = ", ".join(f"{name} {reward:g}" for name, reward in rewards.items())
    return f"step {step}, {sample_id}\n  asked: {asked!r}\n  wrote: {written!r}\n  earned: {earned}"


def message_text(messages: list[dict[str, Any]]) -> str:
    """The text of the last message; its content is a string or a list of parts."""
    content = messages[-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")
