"""The policy around a training: loaded with trainable weights, resumed from a checkpoint, saved as a model folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.config import Config, PolicyConfig
from osler.data.select import describe_samples, digest_content
from osler.errors import ConfigError, naming_missing_packages
from osler.files import locking, read_json_object, replacing, write_json
from osler.policies.image_tokens import check_study_tokens
from osler.policies.lora import describe_adapter, load_adapter, save_adapter
from osler.policies.quiet import quiet_training
from osler.policies.sources import find_policy
from osler.run_folder import Run, forgetting_unused, open_run
from osler.training.dataset import check_prompt_lengths
from osler.training.disk import check_space, explaining_a_full_disk, last_checkpoint
from osler.training.memory import explaining_lack_of_memory
from osler.types import Prompt

if TYPE_CHECKING:
    from osler.policies.load import Policy

LOCK_SECONDS: Final = 120.0
"""How long a training waits for another one in its run folder. The lock of a node that has died may live on for 90 s on shared storage."""


def load_for_training(config: Config, prompts: Sequence[Prompt], arguments: Any) -> Policy:
    """The policy of `[policy]` with trainable weights; the vision tower is frozen when `freeze_vision` is set.

    Sets every random seed first. Raises PolicyError, DataError for a prompt of more than `max_prompt_length` tokens, and ConfigError
    where the processor cannot keep `[data.study] max_tokens`.
    """
    from transformers import set_seed

    from osler.policies.load import load_policy

    set_seed(config.seed)
    with whole_weights(arguments):
        policy = load_policy(config.policy)
    check_study_tokens(prompts, policy.processor)
    check_prompt_lengths(prompts, policy.processor, config.trainer.max_prompt_length)
    policy.model.requires_grad_(True)  # peft leaves weights frozen after an adapter was merged into them
    policy.model.get_submodule(policy.family.vision).requires_grad_(not config.policy.freeze_vision)
    return policy


@contextmanager
def whole_weights(arguments: Any) -> Iterator[None]:
    """Load weights whole on every process under ZeRO-3 too; they are shared among the processes when training starts.

    Transformers would share them while it loads, and Osler's own weights of the rollout are made from whole ones.
    """
    settings = getattr(arguments, "hf_deepspeed_config", None)
    if settings is None:
        yield
        return
    import deepspeed  # type: ignore[import-not-found, unused-ignore]
    import torch
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())  # it counts the processes; a reference is loaded in shares
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(settings)


def name_reference(policy: Policy, config: Config, run: Run) -> None:
    """Set the model's `_name_or_path` to a folder with its starting weights: TRL loads the reference of a full fine-tuning from there.

    A merged LoRA adapter has no such folder, so its starting weights are saved in `run.root / "reference"`.
    """
    source = find_policy(config.policy.path)
    folder = Path(source.path)
    if source.adapter is not None and not (folder := run.root / "reference").is_dir():
        save_model(policy.model, policy.processor, folder)
    policy.model.config._name_or_path = str(folder) if source.is_local else source.path


def start_run(
    out: Path, config: Config, policy: Policy, prompts: Sequence[Prompt], arguments: Any, *, fresh: bool, needs_reference: bool = False
) -> Run:
    """Create the run folder, or open the one of an interrupted run, with the counts of the training questions.

    Of several processes the first does this, and the others wait for it.
    """
    with arguments.main_process_first(local=False, desc="the run folder"):
        is_main = arguments.process_index == 0
        run = open_run(out, config, resume=not (fresh and is_main))
        with forgetting_unused(run):
            described = _check_same_data(run, prompts) if is_main else {}  # one process hashes the images
            if is_main:
                write_json(run.manifest, {"policy": policy.name, "train": described})
            if needs_reference:
                name_reference(policy, config, run)
    return run


def finished_run(out: Path, config: Config, prompts: Sequence[Prompt]) -> Run | None:
    """The run in `out` if it has trained its policy; None otherwise. Raises ConfigError if it had another recipe or other questions."""
    if not Run(root=out).policy.is_dir():
        return None
    run = open_run(out, config)
    _check_same_data(run, prompts)
    return run


def _check_same_data(run: Run, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The training questions, as the run's manifest describes them. Raises ConfigError where it began with others, answers or images."""
    samples = [prompt.sample for prompt in prompts]
    described = {**describe_samples(samples), "content_sha256": digest_content(samples)}
    before = read_json_object(run.manifest).get("train", {})
    for key, what in (("ids_sha256", "questions"), ("content_sha256", "answers or images")):
        if before.get(key, described[key]) != described[key]:
            raise ConfigError(f"the run in {run.root} was trained on other {what}: give another --out, or --fresh to start over")
    return described


def train_and_save(build_trainer: Callable[[], Any], policy: Policy, run: Run, config: Config) -> None:
    """Build the trainer, train from the last complete checkpoint if there is one, and save the policy in the run folder.

    A run that fails before its first step leaves no folder. Raises ConfigError where a setting needs a package that is not installed.
    """
    from osler.training.callbacks import add_callbacks, closing_bars, write_above_bar

    with quiet_training(), forgetting_unused(run), naming_missing_packages(), holding(run):
        trainer = build_trainer()
        add_callbacks(trainer, run, config)
        if config.policy.lora is not None:
            adapted = describe_adapter(trainer.model, policy.family, freeze_vision=config.policy.freeze_vision)
            if trainer.accelerator.is_main_process:
                write_above_bar(adapted)
        if (space := check_space(trainer, run, config)) is not None and trainer.accelerator.is_main_process:
            write_above_bar(space)
        checkpoint = last_checkpoint(run.checkpoints)
        with explaining_a_full_disk(trainer, run), explaining_lack_of_memory(trainer, config), closing_bars(trainer):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
            save_policy(trainer, policy, run, config)


@contextmanager
def holding(run: Run, wait: float = LOCK_SECONDS) -> Iterator[None]:
    """Keep a second training from the same run folder. Raises ConfigError where another one is still at work after `wait` seconds.

    Of the processes of one training the first does this.
    """
    from accelerate.state import PartialState

    if not PartialState().is_main_process:
        yield
        return
    with locking(run.lock, wait) as is_ours:
        if not is_ours:
            raise ConfigError(f"another training writes to {run.root}: wait for it, stop it, or give another --out")
        if run.policy.is_dir():
            raise ConfigError(f"another training has ended in {run.root} meanwhile: the same command says what it made")
        yield


def save_policy(trainer: Any, policy: Policy, run: Run, config: Config) -> None:
    """Write the trained policy as an ordinary model folder. A collective operation: every process must call it.

    A LoRA adapter is merged into the weights of `run.policy`, and kept in `run.adapter` unless the policy was an adapter before.
    """
    weights = gather_weights(trainer)
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        if is_lora := config.policy.lora is not None:
            save_adapter(model, weights, run.adapter)
            with whole_weights(trainer.args):  # the others wait below and share nothing
                model = _merge_into_base(config.policy, run.adapter)
        save_model(model, policy.processor, run.policy, weights=None if is_lora else weights)
        if is_lora and find_policy(config.policy.path).adapter is not None:
            shutil.rmtree(run.adapter)  # its base, another adapter merged into its own base, is stored nowhere
    trainer.accelerator.wait_for_everyone()


def _merge_into_base(config: PolicyConfig, folder: Path) -> Any:
    """The base of `[policy]`, loaded again in `[policy] dtype`, with the adapter in `folder` merged."""
    from osler.policies.load import load_policy

    base = load_policy(config.model_copy(update={"device": "cpu", "lora": None}))
    return load_adapter(base.model, folder, base.family, is_merged=True)


def gather_weights(trainer: Any) -> dict[str, Any] | None:
    """All weights by name, on the CPU, on the main process; None where its model holds them already. A collective operation."""
    accelerator = trainer.accelerator
    if trainer.is_deepspeed_enabled and accelerator.deepspeed_config["zero_optimization"]["stage"] == 3:
        return _gather_zero3(accelerator.unwrap_model(trainer.model), keep=accelerator.is_main_process)
    return dict(accelerator.get_state_dict(trainer.model)) if trainer.is_fsdp_enabled else None


def _gather_zero3(model: Any, *, keep: bool) -> dict[str, Any]:
    """One weight at a time: DeepSpeed gathers all of them only where its own configuration says so, and fails after training otherwise."""
    import deepspeed  # type: ignore[import-not-found, unused-ignore]

    weights = {name: value.detach().cpu() for name, value in model.state_dict(keep_vars=True).items() if not hasattr(value, "ds_id")}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if hasattr(weight, "ds_id"):
            with deepspeed.zero.GatheredParameters([weight]):
                if keep:
                    weights[name] = weight.detach().cpu().clone()
    return weights


def save_model(model: Any, processor: Any, folder: Path, *, weights: dict[str, Any] | None = None) -> None:
    """Write a model folder that appears whole or not at all; `weights` replace the model's own."""
    with replacing(folder) as draft:
        model.save_pretrained(draft, state_dict=weights)
        processor.save_pretrained(draft)
