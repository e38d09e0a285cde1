"""Callbacks of a trial: a policy that does not move at first, and the logged lines."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class FrozenPolicy(TrainerCallback):  # type: ignore[misc]
    """A learning rate of 0 for the first steps; the scheduler sets its own again behind each step."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def on_step_begin(self, _args: Any, state: Any, _control: Any, optimizer: Any = None, **_: Any) -> None:
        """Hold the weights where they are."""
        if state.global_step < self.num_steps:
            for group in optimizer.param_groups:
                group["lr"] = 0.0


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Appends what each step logs to a list."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = lines

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Append one line. The summary at the end of training is left out: it repeats the last step."""
        if logs is not None and "train_runtime" not in logs:
            self.lines.append({"step": state.global_step, **logs})
