"""What GRPO and SFT share: the dataset, the checks before step 1, TRL's arguments, resuming, and the saved policy.

Nothing heavy is imported until a function needs it, so that `--dry-run` stays quick.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import typing
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from osler.config import ROLLOUT_KEYS, Config, PolicyConfig, nearest
from osler.data.select import counts, describe_samples, load_split
from osler.errors import ConfigError, DataError, MissingExtra
from osler.files import replacing
from osler.prompts import render
from osler.types import ImageSource, Prompt, Sample

if TYPE_CHECKING:
    from osler.policies.load import Policy
    from osler.run_folder import Run
    from osler.training.callbacks import OptionShuffler

CACHE_BYTES: Final = 256 * 1024**2
"""Decoded training images that are kept in memory."""

OWNED_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(ROLLOUT_KEYS, "[sampling]"),
        "generation_kwargs": "[sampling]",
        "output_dir": "--out",
        "seed": "the recipe's seed",
        "data_seed": "the recipe's seed",
        "report_to": "[trainer] report_to",
        "run_name": "the recipe's name",
        "log_completions": "[trainer] print_completions_every",
        "reward_weights": "[rewards] weights",
        "model_init_kwargs": "[policy]",
        "use_cpu": "[policy] device",
        "max_length": "[trainer] max_prompt_length, which refuses and never truncates",
        "completion_only_loss": "sft_target",
        "resume_from_checkpoint": "the run folder: the same command goes on by itself",
        "trust_remote_code": "nobody: code from a hub is never run",
        "remove_unused_columns": "Osler: rewards need the columns",
        "push_to_hub": "a verb of its own",
    }
)
"""Keys of TRL's arguments that a recipe sets elsewhere, and where."""

DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "bf16": False,  # TRL turns it on; here weights compute in [policy] dtype unless a recipe asks for mixed precision
        "gradient_checkpointing": False,  # TRL turns it on, at a fifth of the speed; recipes for large models turn it on too
        "logging_steps": 1,
        "save_steps": 50,
        "save_total_limit": 2,
        "dataloader_num_workers": 0,  # images are cached in this process
    }
)
"""What Osler sets where a recipe does not and TRL's or Transformers' own default would surprise."""


def build_arguments(arguments_class: type[Any], section: str, values: Mapping[str, Any], config: Config, out: Path, **own: Any) -> Any:
    """`arguments_class`, TRL's GRPOConfig or SFTConfig, from a recipe's section, Osler's defaults and the values it owns.

    Raises ConfigError for an unknown key, a key that stands elsewhere in a recipe, and a value that TRL refuses.
    """
    if config.policy.device.startswith("cuda:") and config.policy.device != "cuda:0":
        raise ConfigError(
            f"[policy] device = {config.policy.device!r}: training takes the first visible GPU; use auto and CUDA_VISIBLE_DEVICES"
        )
    hints = typing.get_type_hints(arguments_class)
    names = [field.name for field in dataclasses.fields(arguments_class)]
    for key in values:
        if key in OWNED_KEYS:
            raise ConfigError(f"[{section}] {key} belongs to {OWNED_KEYS[key]}: move it there")
        if key not in names:
            raise ConfigError(f"unknown key [{section}] {key}: {arguments_class.__name__} has no such setting{nearest(key, names)}")
    checked = {key: _check_value(section, key, value, hints[key]) for key, value in values.items()}
    owned = {
        "output_dir": str(out / "checkpoints"),
        "seed": config.seed,
        "data_seed": config.seed,
        "report_to": [name for name in config.trainer.report_to if name != "tensorboard"],
        "remove_unused_columns": False,
        "use_cpu": config.policy.device == "cpu",
        "dataloader_pin_memory": _has_accelerator(config.policy),
    }
    try:
        arguments = arguments_class(**{**_rename(DEFAULTS, names), **owned, **_rename(checked, names), **own})
    except (ValueError, TypeError) as error:
        remedy = f": this machine needs --{section}.bf16=false" if "bf16" in str(error) else ""
        raise ConfigError(f"[{section}] {error}{remedy}") from None
    if arguments.n_gpu > 1:
        raise ConfigError(f"{arguments.n_gpu} GPUs are visible to one process: set CUDA_VISIBLE_DEVICES to one, or use accelerate launch")
    return arguments


def grpo_arguments(config: Config, out: Path) -> Any:
    """TRL's GRPOConfig of a recipe: `[grpo]` key for key, with sampling from `[sampling]` and reward weights from `[rewards]`."""
    from trl import GRPOConfig

    weights = config.rewards.weights
    if weights is not None and len(weights) != len(config.rewards.names):
        raise ConfigError(f"[rewards] has {len(config.rewards.names)} names and {len(weights)} weights: give one weight for each name")
    own = {**config.sampling.model_dump(), "reward_weights": list(weights) if weights is not None else None}
    return build_arguments(GRPOConfig, "grpo", config.grpo, config, out, **own)


def read_prompts(config: Config) -> list[Prompt]:
    """The rendered training questions of a recipe. Raises what readers and the renderer raise."""
    return [render(sample, config.prompt.strategy, phase="train") for sample in load_split(config.data, "train")]


def load_for_training(config: Config, prompts: Sequence[Prompt]) -> Policy:
    """The policy of a recipe with its weights free to move, the vision tower's as `[policy] freeze_vision` says.

    Seeds every random number first. Raises PolicyError, and DataError for a prompt that is too long for the recipe.
    """
    from transformers import set_seed

    from osler.policies.load import load_policy

    set_seed(config.seed)
    policy = load_policy(config.policy)
    check_prompt_lengths(prompts, policy.processor, config.trainer.max_prompt_length)
    policy.model.requires_grad_(True)  # peft leaves weights frozen after an adapter was merged into them
    policy.model.get_submodule(policy.family.vision).requires_grad_(not config.policy.freeze_vision)
    return policy


def check_prompt_lengths(prompts: Sequence[Prompt], processor: Any, limit: int) -> None:
    """Raise DataError, which names the sample, for the first prompt of more than `limit` tokens, image tokens included.

    Only prompts whose text leaves less room than the largest image takes have their images opened.
    """
    texts = [processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False) for prompt in prompts]
    text_lengths = [len(ids) for ids in processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    largest = _max_image_tokens(processor)
    for prompt, text, text_length in zip(prompts, texts, text_lengths, strict=True):
        if text_length + largest * len(prompt.sample.images) <= limit:
            continue
        images = [source.load() for source in prompt.sample.images]
        length = len(processor(text=[text], images=images or None, add_special_tokens=False)["input_ids"][0])
        if length > limit:
            num_image_tokens = length - text_length + len(images)  # the text holds one placeholder for each image
            raise DataError(
                f"{prompt.sample.id} makes a prompt of {length} tokens ({num_image_tokens} of them image), the limit is {limit}: "
                f"lower [policy] max_pixels, raise [trainer] max_prompt_length, or leave the question out"
            )


class ImageCache:
    """Decoded images, the latest used ones, up to `max_bytes`."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._images: OrderedDict[ImageSource, Any] = OrderedDict()

    def load(self, source: ImageSource) -> Any:
        """The picture of `source`, decoded at most once while it stays in the cache."""
        if source in self._images:
            self._images.move_to_end(source)
            return self._images[source]
        image = source.load()
        self._images[source] = image
        self.num_bytes += _num_bytes(image)
        while self.num_bytes > self.max_bytes and len(self._images) > 1:
            _, oldest = self._images.popitem(last=False)
            self.num_bytes -= _num_bytes(oldest)
        return image


def option_shuffler(config: Config, arguments: Any) -> OptionShuffler | None:
    """What reorders the options in every epoch where `[data] shuffle_options` asks for it; the trainer has to have it as a callback.

    Raises ConfigError for data loader workers that outlive an epoch: they would go on with the first one's order.
    """
    if not config.data.shuffle_options:
        return None
    if arguments.dataloader_num_workers and arguments.dataloader_persistent_workers:
        raise ConfigError("[data] shuffle_options needs workers that start anew in every epoch: set dataloader_persistent_workers = false")
    from osler.training.callbacks import OptionShuffler

    return OptionShuffler(config.seed)


def build_dataset(
    prompts: Sequence[Prompt],
    completions: Sequence[str] | None = None,
    *,
    shuffler: OptionShuffler | None = None,
    complete: Callable[[Sample], str] | None = None,
) -> Any:
    """A `datasets.Dataset` in memory, one row for each prompt; images are decoded when a row is read, and the G copies of a row share them.

    Columns: `prompt` (chat messages), `images`, `sample_id`, and what the rewards read: `choices`, `target`, `strategy`. With
    `completions`, one for each prompt, also `completion`, for SFT. With a `shuffler` the options stand in the order of the epoch in
    which a row is read, and `complete` writes the completion that goes with it.
    """
    from datasets import Dataset

    cache = ImageCache()

    def read_rows(batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        asked = [prompts[index] if shuffler is None else shuffler.prompt(prompts[index]) for index in batch["index"]]
        rows: dict[str, list[Any]] = {
            "prompt": [list(prompt.messages) for prompt in asked],
            "images": [[cache.load(source) for source in prompt.sample.images] for prompt in asked],
            "sample_id": [prompt.sample.id for prompt in asked],
            "choices": [prompt.sample.choices for prompt in asked],
            "target": [prompt.sample.target for prompt in asked],
            "strategy": [prompt.strategy for prompt in asked],
        }
        written = None if completions is None else [completions[index] for index in batch["index"]]
        if shuffler is not None and complete is not None:
            written = [complete(prompt.sample) for prompt in asked]
        if written is not None:
            rows["completion"] = [[{"role": "assistant", "content": text}] for text in written]
        return rows

    dataset = Dataset.from_dict({"index": list(range(len(prompts)))})
    dataset.set_transform(read_rows)
    return dataset


def name_reference(policy: Policy, config: Config, run: Run) -> None:
    """Let the model's config name the folder of its starting weights: TRL loads the frozen reference of a full fine-tuning from there.

    A merged LoRA adapter has no such folder, so its starting weights are written into the run.
    """
    from osler.policies.load import find_policy

    source = find_policy(config.policy.path)
    folder = Path(source.path)
    if source.adapter is not None and not (folder := run.root / "reference").is_dir():
        save_whole(policy.model, policy.processor, folder)
    policy.model.config._name_or_path = str(folder) if source.is_local else source.path


def add_callbacks(trainer: Any, run: Run, config: Config) -> None:
    """Write `metrics.jsonl`, show Osler's progress bar in place of Transformers', and log to TensorBoard where the recipe asks for it."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from osler.training.callbacks import MetricsWriter, ProgressBar

    for stock in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(stock)
    trainer.add_callback(MetricsWriter(run.metrics))
    if not trainer.args.disable_tqdm:
        trainer.add_callback(ProgressBar())
    if "tensorboard" in config.trainer.report_to:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        trainer.add_callback(TensorBoardCallback(SummaryWriter(log_dir=str(run.root / "tensorboard"))))


def check_reporters(names: Sequence[str]) -> None:
    """Raise ConfigError for a service that Transformers does not know, and a line that says what to install for one that is absent."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted(INTEGRATION_TO_CALLBACK)
            raise ConfigError(f"[trainer] report_to does not know {name!r}{nearest(name, known)} (known: {', '.join(known)})")
        if name == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
            raise MissingExtra("tensorboard", "tensorboard")


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps that was written whole, or None. The trainer's state is the last file that goes into one."""
    steps = {int(path.name.partition("-")[2]): path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()}
    return next((steps[step] for step in sorted(steps, reverse=True) if _is_complete(steps[step])), None)


def run_trainer(trainer: Any, run: Run) -> None:
    """Train, from the last complete checkpoint where there is one."""
    checkpoint = last_checkpoint(run.checkpoints)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)


@contextmanager
def quiet_upstream() -> Iterator[None]:
    """Without the deprecation warnings that TRL 1.16 earns from Transformers, and without a bar for each file that is saved."""
    from transformers.utils import logging

    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(trl|transformers)\.")
            yield
    finally:
        if had_bars:
            logging.enable_progress_bar()


def save_policy(trainer: Any, processor: Any, folder: Path) -> None:
    """Write the trained policy as an ordinary model folder that appears whole or not at all; a LoRA adapter is merged into the weights."""
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    save_whole(model, processor, folder)


def save_whole(model: Any, processor: Any, folder: Path) -> None:
    """Write a model folder by way of a draft beside it."""
    with replacing(folder) as draft:
        model.save_pretrained(draft)
        processor.save_pretrained(draft)


def describe(config: Config, splits: Sequence[Literal["train", "test"]] = ("train", "test")) -> str:
    """What a run would do: the resolved recipe, the questions of each cell, and one prompt of the first split. Loads no model."""
    lines = [config.to_json()]
    found = {split: load_split(config.data, split) for split in splits}
    for split, samples in found.items():
        redrawn = describe_samples(samples).get("distractors", {})
        lines.append(f"\n{split}: {len(samples)} questions" + (f", distractors {redrawn}" if redrawn else ""))
        for modality, row in counts(samples).items():
            lines.append(f"  {modality}: " + ", ".join(f"{question_type} {number}" for question_type, number in row.items()))
    sample = found[splits[0]][0]
    strategy = config.prompt.strategy if splits[0] == "train" else config.prompt.eval_strategy or config.prompt.strategy
    prompt = render(sample, strategy, phase="train" if splits[0] == "train" else "eval")
    images = ", ".join(source.uri for source in sample.images) or "no image"
    lines.append(f"\n{sample.id} ({images}), strategy {strategy}, target {sample.target}:\n{prompt.text}")
    return "\n".join(lines)


def _check_value(section: str, key: str, value: Any, hint: Any) -> Any:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"[{section}] {key}: {error.errors()[0]['msg']} (got {value!r})") from None


def _rename(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The newer of two names that Transformers gives one setting, where it has both; the older one warns."""
    newer = {key: key.replace("gradient_checkpointing", "activation_checkpointing") for key in values}
    return {newer[key] if newer[key] in names else key: value for key, value in values.items()}


def _has_accelerator(policy: PolicyConfig) -> bool:
    import torch

    return policy.device != "cpu" and torch.cuda.is_available()


def _max_image_tokens(processor: Any) -> int:
    """Tokens of the largest image that the processor makes: one for each merged patch."""
    image_processor = processor.image_processor
    return int(image_processor.size["longest_edge"] // (image_processor.patch_size * image_processor.merge_size) ** 2)


def _num_bytes(image: Any) -> int:
    return int(image.width * image.height * len(image.getbands()))


def _is_complete(checkpoint: Path) -> bool:
    try:
        return isinstance(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False
