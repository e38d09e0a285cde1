"""What to change when a training runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from osler.config import Config
from osler.errors import OslerError


@contextmanager
def explaining_lack_of_memory(trainer: Any, config: Config) -> Iterator[None]:
    """Turn PyTorch's error into one line that names the settings which need less memory, those that change no result first."""
    import torch

    try:
        yield
    except RuntimeError as error:
        # On a CPU it has no type of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        remedies = "; ".join(_remedies(trainer, config))
        raise OslerError(f"out of memory on {trainer.args.device} at step {int(trainer.state.global_step)}. Change {remedies}") from error


def _remedies(trainer: Any, config: Config) -> Iterator[str]:
    arguments, is_grpo = trainer.args, hasattr(trainer, "num_generations")
    has_gpu = arguments.device.type == "cuda"
    section = "grpo" if is_grpo else "sft"
    if is_grpo and config.trainer.groups_per_forward != 1:
        yield "--trainer.groups_per_forward=1"
    if is_grpo and config.trainer.static_decoding:
        yield "--trainer.static_decoding=false"
    if not arguments.gradient_checkpointing:
        yield f"--{section}.gradient_checkpointing=true"
    if not arguments.bf16 and has_gpu:
        yield f"--{section}.bf16=true"
    size = arguments.per_device_train_batch_size
    if size > 1:
        more = 2 * arguments.gradient_accumulation_steps
        yield f"--{section}.per_device_train_batch_size={size // 2} with gradient_accumulation_steps={more}"
    if is_grpo:
        yield "--sampling.max_completion_length to fewer tokens"
    yield "--policy.max_pixels to smaller images" if config.policy.lora is not None else "--policy.lora.r=16 to train an adapter"
