"""The policy around a training: loaded with trainable weights, resumed from a checkpoint, saved as a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.config import Config
from osler.data.select import describe_samples
from osler.files import replacing, write_json
from osler.policies.quiet import quiet_training
from osler.run_folder import Run, open_run
from osler.training.dataset import check_prompt_lengths
from osler.types import Prompt

if TYPE_CHECKING:
    from osler.policies.load import Policy


def load_for_training(config: Config, prompts: Sequence[Prompt]) -> Policy:
    """The policy of `[policy]` with trainable weights; the vision tower is frozen when `freeze_vision` is set.

    Sets every random seed first. Raises PolicyError, and DataError for a prompt of more than `max_prompt_length` tokens.
    """
    from transformers import set_seed

    from osler.policies.load import load_policy

    set_seed(config.seed)
    policy = load_policy(config.policy)
    check_prompt_lengths(prompts, policy.processor, config.trainer.max_prompt_length)
    policy.model.requires_grad_(True)  # peft leaves weights frozen after an adapter was merged into them
    policy.model.get_submodule(policy.family.vision).requires_grad_(not config.policy.freeze_vision)
    return policy


def name_reference(policy: Policy, config: Config, run: Run) -> None:
    """Set the model's `_name_or_path` to a folder with its starting weights: TRL loads the reference of a full fine-tuning from there.

    A merged LoRA adapter has no such folder, so its starting weights are saved in `run.root / "reference"`.
    """
    from osler.policies.sources import find_policy

    source = find_policy(config.policy.path)
    folder = Path(source.path)
    if source.adapter is not None and not (folder := run.root / "reference").is_dir():
        save_model(policy.model, policy.processor, folder)
    policy.model.config._name_or_path = str(folder) if source.is_local else source.path


def start_run(out: Path, config: Config, policy: Policy, prompts: Sequence[Prompt], *, fresh: bool) -> Run:
    """Create the run folder, or open the one of an interrupted run, and write the counts of the training questions to its manifest."""
    run = open_run(out, config, resume=not fresh)
    write_json(run.manifest, {"policy": policy.name, "train": describe_samples([prompt.sample for prompt in prompts])})
    return run


def train_and_save(build_trainer: Callable[[], Any], policy: Policy, run: Run, config: Config) -> None:
    """Build the trainer, train from the last complete checkpoint if there is one, and save the policy in the run folder."""
    from osler.training.callbacks import add_callbacks

    with quiet_training():
        trainer = build_trainer()
        add_callbacks(trainer, run, config)
        checkpoint = last_checkpoint(run.checkpoints)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        save_policy(trainer, policy.processor, run.policy)


def last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None. Complete: `trainer_state.json`, the last file that is written, is JSON."""
    steps = {int(path.name.partition("-")[2]): path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()}
    return next((steps[step] for step in sorted(steps, reverse=True) if _is_complete(steps[step])), None)


def _is_complete(checkpoint: Path) -> bool:
    try:
        return isinstance(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def save_policy(trainer: Any, processor: Any, folder: Path) -> None:
    """Write the trained policy as an ordinary model folder, on the main process; a LoRA adapter is merged into the weights."""
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    save_model(model, processor, folder)


def save_model(model: Any, processor: Any, folder: Path) -> None:
    """Write a model folder that appears whole or not at all."""
    with replacing(folder) as draft:
        model.save_pretrained(draft)
        processor.save_pretrained(draft)
