"""TRL's trainers with Osler's overrides.

TRL 1.16 generates, scores, pairs images with their rows and updates. Changed here, and why:

- The order of the questions depends on the seed and the epoch only, so a run that resumes in its second epoch asks the same questions as an
  uninterrupted one. TRL's sampler restarts with the order of the first epoch.
- The weights of a checkpoint are loaded with `from_pretrained`, and strictly. Transformers saves Qwen2-VL's weights under their published
  names; its Trainer looks for the names in memory, finds none, warns, and continues from the starting weights.
- A checkpoint of GRPO holds what remains of the rollout (`rollout_state`). TRL's resumed run would generate anew at once.
- SFT restores the token count of a checkpoint.
- Completions are written without dropout, by the policy that is saved and evaluated. TRL leaves dropout on, also that of a LoRA adapter.
- With `[data] mixture` or `curriculum` the questions of a rollout are chosen when it begins (`curriculum`).
- Completions can be printed to standard error during training.
- What answers look like is logged (`rollout_figures`), and with `watch_image_every` what they are without the image (`blank_images`).
- A reward that is no finite number, and a completion without any, is an error (`reward_check`).
- With the reward `reasoning_matters` the policy answers again behind altered reasoning, and the reward receives those answers.
- Med-R1's published SFT has labels for the prompt too, except its vision tokens.
- No model card is written into checkpoints, and no telemetry is sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from accelerate.utils import gather_object, is_peft_model
from trl import GRPOTrainer, SFTTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling
from trl.trainer.utils import RepeatSampler

from osler.errors import ConfigError
from osler.grading.rewards import completion_text, reasoning_matters
from osler.policies.letters import find_letter_tokens
from osler.training.altered_answers import ask_again
from osler.training.blank_images import WATCHED_QUESTIONS, Watched, ask_with_blank_images, pick_questions
from osler.training.callbacks import write_above_bar
from osler.training.curriculum import Curriculum
from osler.training.kept_completions import MAX_TEXT, EnumeratedRow, KeptCompletion, KeptCompletions, answer_probabilities, pick
from osler.training.reward_check import checked, require_rewards
from osler.training.rollout_figures import HELD_OUT, QUESTIONS, Answered, describe_answers, describe_blank, read_answers
from osler.training.rollout_state import RolloutSizes, RolloutState, batch_tensors, is_used_up, load_rollout, read_batches, save_rollout
from osler.training.tensor_file import TensorFile

PROMPT_TAIL: Final = 200
"""Characters of a prompt that are printed with a completion."""


class EpochSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's sampler with an order that depends on the seed and the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Seed the order; the training loop calls this before each epoch."""
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


class PlaceholderSampler(EpochSampler):
    """As many rows as TRL's sampler gives, all of them the first: a curriculum replaces them."""

    def __iter__(self) -> Iterator[int]:
        return iter([0] * len(self))


class _Overrides:
    """Overrides of both trainers."""

    args: Any
    model: Any
    is_fsdp_enabled: bool

    def create_accelerator_and_postprocess(self) -> None:
        """Refuse FSDP where accelerate leaves it unread: on CPUs every process would hold all weights, without a word."""
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        if self.args.fsdp and not self.is_fsdp_enabled:
            raise ConfigError("fsdp shares weights among GPUs only, and these processes have none: leave it out")

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
    """TRL's GRPO. One completion is printed every `print_completions_every` steps, 0: never; a few are kept in the file `kept`."""

    reward_funcs: list[Any]
    _buffered_inputs: Any
    _tr_loss: torch.Tensor
    _globalstep_last_logged: int

    def __init__(
        self,
        *args: Any,
        print_completions_every: int = 0,
        watch_image_every: int = 0,
        held_out: Any | None = None,
        kept: KeptCompletions | None = None,
        curriculum: Curriculum | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.watch_image_every = watch_image_every
        self.watched = Watched()  # a checkpoint keeps it
        self.held_out = held_out  # a dataset of questions that are not trained on; None: those of the rollout are watched
        self.curriculum = curriculum
        self.print_completions_every = print_completions_every
        self._next_print = 0
        self.kept = kept
        self._compared: list[tuple[Answered, Answered]] = []  # with blank images, since the last line of metrics
        self.has_ended_sharing = False
        self._restored: RolloutState | None = None  # of a checkpoint, until the first step
        self._asks_again = reasoning_matters in self.reward_funcs
        if self._asks_again and (self.is_fsdp_enabled or self._dist.is_zero3):
            raise ConfigError("the reward reasoning_matters needs the whole policy on every process, and weights are sharded: drop it")
        if watch_image_every and (self.is_fsdp_enabled or self._dist.is_zero3):
            raise ConfigError("[trainer] watch_image_every needs the whole policy on every process, and weights are sharded: set it to 0")
        self._letters = find_letter_tokens(self._tokenizer) if self._asks_again else {}
        self.reward_funcs = [checked(reward) for reward in self.reward_funcs]

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        dataset = self.train_dataset if dataset is None else dataset
        sampler_class = EpochSampler if self.curriculum is None else PlaceholderSampler
        return sampler_class(
            dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        save_rollout(self, Path(output_dir))
        if self.curriculum is not None and self.accelerator.is_main_process:
            self.curriculum.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._restored = state = load_rollout(self, Path(checkpoint))
            self.watched = Watched(times=state.times_watched, last=state.last_watched)
            if self.curriculum is not None:
                self.curriculum.load(Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if self._restored is not None:  # here, because Transformers resets both between the optimizer's state and the random state
            self._tr_loss = torch.tensor(self._restored.loss, device=self.args.device)
            self._globalstep_last_logged = self._restored.last_logged
            self._restored = None

    def end_sharing(self) -> None:
        """Note that shared prompts differed from TRL's own, and use them no longer."""
        self.has_ended_sharing = True

    def rollout_tensors(self) -> dict[str, torch.Tensor]:
        """What remains of the rollout, for a checkpoint."""
        return batch_tensors(self._buffered_inputs)

    def restore_rollout(self, file: TensorFile, _state: RolloutState) -> None:
        """Take back what `rollout_tensors` gave. Raises DataError for a file of other tensors."""
        if file.has("0/group_id"):
            raise ConfigError("the last rollout of the checkpoint shares prompts within groups: resume it with --trainer.share_prefix=true")
        sizes = RolloutSizes.of(self, self.accelerator.unwrap_model(self.model).config)
        self._buffered_inputs = read_batches(file, sizes, self.accelerator.device)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        begins = is_used_up(self, self._step) or self._buffered_inputs is None
        if self.curriculum is not None and self.model.training and begins:
            generation_batch = self._choose_questions(self.curriculum, len(generation_batch))
        if self.model.training and begins and self.watched.is_due(self.state.global_step, self.watch_image_every):
            self._watch_image(generation_batch)
            self.watched = self.watched.after(self.state.global_step)
        return super()._prepare_inputs(generation_batch)

    def _choose_questions(self, curriculum: Curriculum, num_rows: int) -> list[Any]:
        """The rows of this process in the next rollout, each question `num_generations` times in a row over all processes."""
        times, first = self.num_generations, self.accelerator.process_index * num_rows
        places = curriculum.choose(num_rows * self.accelerator.num_processes // times, self.state.global_step)
        for name, value in curriculum.metrics(places).items():
            self._metrics["train"][name].append(value)
        own = [places[row // times] for row in range(first, first + num_rows)]
        rows = {place: self.train_dataset[place] for place in dict.fromkeys(own)}
        return [rows[place] for place in own]

    @property
    def draws_completions(self) -> bool:
        """Whether the completions of the present rollout were drawn by their probabilities."""
        return True

    @property
    def enumerated_rows(self) -> list[EnumeratedRow]:
        """What the rows of the present rollout stand for; [] where its completions were drawn."""
        return []

    def _watch_image(self, rows: Sequence[Any]) -> None:
        questions = pick_questions(rows) if self.held_out is None else self._next_held_out(self.held_out)
        pairs = gather_object(ask_with_blank_images(self, questions) if questions else [])
        num_different = None if self.held_out is None else len(self.held_out)
        logged = self._metrics["train"]
        if not logged.get(QUESTIONS):  # a line was written since
            self._compared = []
        self._compared = [*self._compared, *pairs][-(num_different or HELD_OUT) :]
        for name, value in describe_blank(self._compared, num_different).items():
            logged[name] = [value]  # of all questions since the last line, where TRL would take a mean of means

    def _next_held_out(self, questions: Any) -> list[Any]:
        """The next questions of this process, in turn; after the last comes the first again."""
        size = min(WATCHED_QUESTIONS, len(questions))
        first = size * (self.watched.times * self.accelerator.num_processes + self.accelerator.process_index)
        return [questions[(first + place) % len(questions)] for place in range(size)]

    def _describe_answers(self, inputs: Sequence[Any], completions: Sequence[Any]) -> None:
        """Log what the answers of all processes look like."""
        answered = gather_object(read_answers(inputs, [completion_text(completion) for completion in completions]))
        for name, value in describe_answers(answered, self.num_generations).items():
            self._metrics["train"][name].append(value)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        is_training = self.model.training
        self.model.eval()
        try:
            return super()._generate_single_turn(*args, **kwargs)
        finally:
            self.model.train(is_training)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        step = self.state.global_step
        if self._asks_again:
            next_logits = partial(self._letter_logits, inputs, prompts)
            texts = [completion_text(completion) for completion in completions]
            answers = ask_again(inputs, texts, next_logits, self._letters, f"{self.args.seed}/{step}")
            inputs = [{**row, "altered_answers": own} for row, own in zip(inputs, answers, strict=True)]
        rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training and self.draws_completions and "choices" in inputs[0]:  # rows of other datasets may have none
            self._describe_answers(inputs, completions)
        if self.curriculum is not None:
            self._record(self.curriculum, gather_object([row["sample_id"] for row in inputs]), rewards[:, 0])
        require_rewards(self._own_rows(rewards, len(inputs)), [row["sample_id"] for row in inputs])
        if self.accelerator.is_main_process:
            self._show(step + 1, inputs, prompts, completions, rewards)  # the step of the line in `metrics.jsonl`
        return rewards

    def _show(self, step: int, inputs: Any, prompts: Any, completions: Any, rewards: torch.Tensor) -> None:
        """Print a completion and keep a few, of the main process, whose rows are the first."""
        is_printed = bool(self.print_completions_every) and step >= self._next_print
        is_kept = self.kept is not None and self.kept.is_due(step)
        if not is_printed and not is_kept:
            return
        sample_ids = [row["sample_id"] for row in inputs]
        enumerated = self.enumerated_rows if self.model.training else []
        places = pick(sample_ids, enumerated, f"{self.args.seed}/{step}")
        if is_printed:
            self._next_print, place = step + self.print_completions_every, places[0]
            scores = dict(zip(self.reward_func_names, rewards[place].tolist(), strict=True))
            write_above_bar(format_completion(step, sample_ids[place], prompts[place], completions[place], scores))
        if self.kept is None or not is_kept:
            return
        rows = []
        for place in places:
            start = place - place % self.num_generations
            earned = [value if math.isfinite(value) else None for value in rewards[place].tolist()]
            kept = KeptCompletion(
                step=step,
                sample_id=inputs[place]["sample_id"],
                prompt=message_text(prompts[place])[:MAX_TEXT],
                completion=message_text(completions[place])[:MAX_TEXT],
                target=inputs[place]["target"],
                rewards=dict(zip(self.reward_func_names, earned, strict=True)),
                probabilities=answer_probabilities(enumerated[start : start + self.num_generations]),
            )
            rows.append(kept)
        self.kept.keep(step, rows)

    def _own_rows(self, gathered: torch.Tensor, num_rows: int) -> torch.Tensor:
        """The rows of this process, among those of all processes with as many each."""
        first = self.accelerator.process_index * num_rows
        return gathered[first : first + num_rows]

    def _record(self, curriculum: Curriculum, sample_ids: Sequence[str], rewards_N: torch.Tensor) -> None:
        """Tell the curriculum what the completions of all processes earned of the first reward."""
        curriculum.record(sample_ids, rewards_N.tolist(), self.reward_func_names[0])

    def _letter_logits(self, inputs: Any, prompts: Any, begins: Sequence[tuple[int, str]]) -> torch.Tensor:
        """Logits [N, V] of the letter tokens behind the beginnings of completions, each with the row of its prompt."""
        processor, size = self.processing_class, self.args.per_device_train_batch_size
        options = {"add_generation_prompt": True, "chat_template": self.chat_template, **self.chat_template_kwargs}
        logits = []
        checkpointing = self.args.gradient_checkpointing_kwargs
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=checkpointing) as model,
            torch.no_grad(),
            self.accelerator.autocast(),
        ):
            for start in range(0, len(begins), size):
                part = begins[start : start + size]
                texts = [processor.apply_chat_template(prompts[row], tokenize=False, **options) + text for row, text in part]
                images = [image for row, _ in part for image in inputs[row]["images"]]
                batch = processor(
                    text=texts, images=images or None, padding=True, padding_side="left", return_tensors="pt", add_special_tokens=False
                )
                outputs = model(**batch.to(self.accelerator.device), logits_to_keep=1)
                logits.append(outputs.logits[:, -1, list(self._letters)].float())
        return torch.cat(logits)


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
