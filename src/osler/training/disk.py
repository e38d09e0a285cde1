"""A training's checkpoints on disk: what they will take, from which one it resumes, and what is left when the disk is full anyway."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from osler.config import Config
from osler.errors import ConfigError, OslerError
from osler.run_folder import Run

NOTABLE_BYTES: Final = 10**9
"""Less than this is not worth a line."""

ADAM_STATES: Final = 2
"""Moving averages that Adam keeps of each trained weight, in the weight's precision."""

OPTIMIZERS: Final = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")
"""The optimizer's state in a checkpoint: of one process, of FSDP, and of DeepSpeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a training writes, in bytes."""

    weights: int  # of a checkpoint: all of them, or those of the adapter
    optimizer: int
    rollout: int  # completions of the last rollout and their images, where checkpoints need them
    num_checkpoints: int  # at a time; while one is written, the oldest is still there
    policy: int  # the trained policy and its adapter

    def total(self, checkpoint: str) -> int:
        """Everything together, with `[trainer] checkpoint` "resume", "weights" or "none"."""
        each = {"resume": self.weights + self.optimizer + self.rollout, "weights": self.weights, "none": 0}[checkpoint]
        return self.num_checkpoints * each + self.policy


def plan_space(model: Any, limit: int | None, rollout: int = 0) -> Space:
    """The space for training `model` with `save_total_limit` checkpoints; without a limit, for one of them.

    `rollout` is that of `rollout_state.estimate_bytes`.
    """
    sizes = [(weight.numel() * weight.element_size(), weight.requires_grad) for weight in model.parameters()]
    trained = sum(size for size, is_trained in sizes if is_trained)
    whole = sum(size for size, _ in sizes)
    return space_of(whole=whole, trained=trained, is_adapter=hasattr(model, "peft_config"), limit=limit, rollout=rollout)


def space_of(*, whole: int, trained: int, is_adapter: bool, limit: int | None, rollout: int = 0) -> Space:
    """The same for a model whose weights take `whole` bytes, of which `trained` are trained."""
    return Space(
        weights=trained if is_adapter else whole,
        optimizer=ADAM_STATES * trained,
        rollout=rollout,
        num_checkpoints=(limit or 0) + 1,
        policy=whole,  # of an adapter too, because it is merged
    )


def check_space(trainer: Any, run: Run, config: Config) -> str | None:
    """One line about the space that the training needs, None where it is little. Raises ConfigError when it does not fit."""
    from osler.training.rollout_state import estimate_bytes

    rollout = estimate_bytes(trainer) if hasattr(trainer, "num_generations") else 0  # SFT has none
    space = plan_space(trainer.model, trainer.args.save_total_limit, rollout)
    kind = config.trainer.checkpoint
    needed = space.total(kind)
    free = shutil.disk_usage(run.root).free + sum(file.stat().st_size for file in run.checkpoints.rglob("*") if file.is_file())
    room = f"{format_bytes(free)} are free in {run.root.parent}"
    text = f"up to {space.num_checkpoints} checkpoints and the policy take {format_bytes(needed)}, and {room}"
    if kind == "none":
        text = f"the policy takes {format_bytes(needed)}, and {room}"
    if needed <= free:
        return text if needed > NOTABLE_BYTES else None
    less = {other: space.total(other) for other in ("weights", "none") if space.total(other) < needed}
    remedies = [f"--trainer.checkpoint={other} ({format_bytes(size)})" for other, size in less.items()]
    raise ConfigError(f"{text}: " + ", ".join(["make room, give another --out", *remedies]))


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps from which a training can resume, or None: it has an optimizer, and was written to the end.

    `trainer_state.json` is the last file that is written.
    """
    steps = {int(path.name.partition("-")[2]): path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()}
    return next((steps[step] for step in sorted(steps, reverse=True) if _is_complete(steps[step])), None)


def _is_complete(checkpoint: Path) -> bool:
    if not any(any(checkpoint.glob(name)) for name in OPTIMIZERS):
        return False
    try:
        return isinstance(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


@contextmanager
def explaining_a_full_disk(trainer: Any, run: Run) -> Iterator[None]:
    """Turn the error of a full disk into one line that says what is kept; the checkpoint that was being written is removed.

    Other errors pass through.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        step = int(trainer.state.global_step)
        shutil.rmtree(run.checkpoints / f"checkpoint-{step}", ignore_errors=True)
        kept = last_checkpoint(run.checkpoints)
        what = "there is no earlier checkpoint" if kept is None else f"the checkpoint of step {kept.name.partition('-')[2]} is kept"
        raise OslerError(f"the disk of {run.root} is full at step {step}; {what}: make room, and the same command resumes") from error


def _is_full(error: BaseException) -> bool:
    """Whether an error, or the one that caused it, says that the disk is full: an OSError, or the text that other libraries make of it."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    return any(
        (isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left on device" in str(one) for one in causes
    )


def format_bytes(num_bytes: float) -> str:
    """ "26.5 GB", "31 MB"."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
