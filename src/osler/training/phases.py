"""Where the time of a training step goes: seconds of each phase, in `metrics.jsonl` as `seconds/<phase>`.

The phases are timed from outside, by hooks and wrapped methods, on Osler's path and on TRL's. On a GPU the clock waits until everything
that was started has ended, because a kernel runs on after the call that started it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from transformers import TrainerCallback

from osler.policies.lora import base_of

PHASES: Final = ("data", "processor", "vision", "prefill", "decode", "update forward", "backward", "optimiser", "other")
"""`decode` is all of the rollout except processor, vision and prefill; `update forward` all of the loss except vision; `other` the rest,
with TRL's second preparation of each image where prompts are not shared."""


class PhaseTimer:
    """Seconds of each phase. The time of an inner phase does not count for the outer one."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._read = read
        self._open: list[tuple[str, float, list[float]]] = []  # of each open phase its name, its start and the seconds of inner phases

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the body of the `with` block."""
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def begin(self, name: str) -> None:
        """Open a phase inside the open ones."""
        self._open.append((name, self._read(), []))

    def end(self) -> None:
        """Close the innermost phase."""
        name, start, inner = self._open.pop()
        spent = self._read() - start
        self.seconds[name] += spent - sum(inner)
        if self._open:
            self._open[-1][2].append(spent)

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Time the calls of a method as a phase."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    def watch(self, module: torch.nn.Module, name: str | Callable[[dict[str, Any]], str]) -> None:
        """Time the forward passes of a module; `name` may be a function from the keyword arguments of a pass to the phase.

        Hooks, because a copy of the module must not call the forward pass of this one.
        """

        def begin(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
            self.begin(name if isinstance(name, str) else name(kwargs))

        def end(*_: Any) -> None:
            self.end()

        module.register_forward_pre_hook(begin, with_kwargs=True)
        module.register_forward_hook(end, always_call=True)


def time_phases(trainer: Any, timer: PhaseTimer, base: Any) -> None:
    """Time the phases of a GRPO trainer whose Transformers model is `base`, all but data and optimiser."""
    in_update = False
    original = trainer._compute_loss

    def language_phase(kwargs: dict[str, Any]) -> str:
        if in_update:
            return "update forward"
        return "prefill" if kwargs["inputs_embeds"].shape[1] > 1 else "decode"

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        nonlocal in_update
        in_update = True
        try:
            return original(*args, **kwargs)
        finally:
            in_update = False

    trainer._compute_loss = compute_loss
    timer.wrap(trainer, "_tokenize_prompts", "processor")
    timer.wrap(trainer, "_generate_single_turn", "decode")
    timer.wrap(trainer, "_compute_loss", "update forward")
    timer.wrap(trainer.accelerator, "backward", "backward")
    timer.watch(base.model.visual, "vision")
    timer.watch(base.model.language_model, language_phase)


class PhaseLogger(TrainerCallback):  # type: ignore[misc]
    """Adds the seconds of each phase to the metrics that TRL logs, from the end of one step to the end of the next."""

    def __init__(self, trainer: Any) -> None:
        device = trainer.accelerator.device
        self.trainer = trainer
        self.timer = PhaseTimer(time.perf_counter if device.type != "cuda" else _read_synchronised)
        self._last_end = 0.0

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Time the phases of the model as it is trained: wrapped, and with its adapter."""
        time_phases(self.trainer, self.timer, base_of(self.trainer.accelerator.unwrap_model(self.trainer.model)))
        self.timer.wrap(self.trainer, "get_batch_samples", "data")
        self.timer.wrap(self.trainer.accelerator, "clip_grad_norm_", "optimiser")
        self._last_end = time.perf_counter()

    def on_pre_optimizer_step(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """The gradient is complete."""
        self.timer.begin("optimiser")

    def on_optimizer_step(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """The weights have changed."""
        self.timer.end()

    def on_step_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Hand the seconds to TRL and start over."""
        end = time.perf_counter()
        seconds = self.timer.seconds
        seconds["other"] += end - self._last_end - sum(seconds.values())
        for name in PHASES:
            self.trainer._metrics["train"][f"seconds/{name}"].append(seconds.get(name, 0.0))
        seconds.clear()
        self._last_end = end


def _read_synchronised() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
