"""Callbacks of TRL's trainers: metrics as JSON Lines, shuffled options, a progress bar, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from osler.config import Config
from osler.data.option_order import shuffle_options
from osler.errors import ConfigError, first_line
from osler.files import read_json_lines, write_json_lines
from osler.prompts import render
from osler.training.phases import PhaseLogger
from osler.training.symptoms import WARNINGS
from osler.training.watching import Watch, to_values
from osler.types import Prompt

if TYPE_CHECKING:
    from osler.run_folder import Run


def add_callbacks(trainer: Any, run: Run, config: Config) -> None:
    """Write `metrics.jsonl`, replace Transformers' progress bar by Osler's, and log to TensorBoard when the recipe asks for it."""
    use_own_bar(trainer)
    is_grpo = hasattr(trainer, "num_generations")
    if is_grpo:  # SFT has one phase
        trainer.add_callback(PhaseLogger(trainer))
    trainer.add_callback(MetricsWriter(run.metrics, Watch(config) if is_grpo else None))
    _name_reporters(trainer, [name for name in config.trainer.report_to if name != "tensorboard"])
    if "tensorboard" in config.trainer.report_to:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        trainer.add_callback(TensorBoardCallback(SummaryWriter(log_dir=str(run.root / "tensorboard"))))


def use_own_bar(trainer: Any) -> None:
    """Replace what Transformers prints by Osler's progress bar, or by nothing with `disable_tqdm`."""
    for stock in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(stock)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(ProgressBar())


def _name_reporters(trainer: Any, names: Sequence[str]) -> None:
    """Let the start of every reporter raise ConfigError."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        for callback in trainer.callback_handler.callbacks:
            if type(callback) is INTEGRATION_TO_CALLBACK[name]:
                callback.setup = naming_reporter(name, callback.setup)


def naming_reporter(name: str, setup: Callable[..., None]) -> Callable[..., None]:
    """`setup` of a reporter, which raises ConfigError where it raises: no login, no server, a package that lacks a part."""

    def named(*args: Any, **kwargs: Any) -> None:
        try:
            setup(*args, **kwargs)
        except Exception as error:
            why = first_line(error)
            raise ConfigError(f"[trainer] report_to: {name} does not start ({why}): set it up, or leave it out") from error

    return named


class MetricsWriter(TrainerCallback):  # type: ignore[misc]
    """`metrics.jsonl`: one JSON object for each logged step, the trainer's own keys plus `step` and `time_s`.

    `time_s` is the training time in seconds, summed over all parts of an interrupted run. When a run resumes from a checkpoint, lines of
    later steps are removed first, so that no step appears twice. What `watch` finds is printed above the bar and stands in the line of its
    step, as `warnings`.
    """

    def __init__(self, path: Path, watch: Watch | None = None) -> None:
        self.path = path
        self.watch = watch
        self.started = 0.0  # the clock's reading at step 0

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Keep the lines up to the step from which training resumes."""
        if not state.is_world_process_zero:
            return
        kept = [line for line in read_json_lines(self.path) if line["step"] <= state.global_step]
        write_json_lines(self.path, kept)
        if self.watch is not None:
            self.watch.resume(kept)
        self.started = time.monotonic() - (kept[-1]["time_s"] if kept else 0.0)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Append one line. The summary at the end of training is left out: it repeats the last step."""
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        line = {"step": state.global_step, "time_s": round(time.monotonic() - self.started, 3), **logs}
        if self.watch is not None and (found := self.watch.observe(line)):
            for symptom in found:
                write_above_bar(f"step {state.global_step}, {symptom.line}")
            line[WARNINGS] = to_values(found)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class OptionShuffler(TrainerCallback):  # type: ignore[misc]
    """Reorders the options of questions in every epoch; the dataset calls `prompt` when it reads a row.

    The order depends on the seed, the epoch and the sample's id only, so a resumed run asks the same questions as an uninterrupted one.
    Data loader workers copy this object, with its epoch, when they start, which is at every epoch.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epoch = 0

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Store the epoch. `state.epoch` is a fraction when a run resumes in the middle of one."""
        self.epoch = int(state.epoch or 0)

    def prompt(self, prompt: Prompt) -> Prompt:
        """The prompt with its options in this epoch's order."""
        return render(shuffle_options(prompt.sample, f"{self.seed}/{self.epoch}"), prompt.strategy, phase="train")


class ProgressBar(ProgressCallback):  # type: ignore[misc]
    """Transformers' bar with the latest reward or loss beside it, in place of one line of numbers for each step."""

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show the reward of GRPO or the loss of SFT."""
        if self.training_bar is None or logs is None:
            return
        name = next((key for key in ("reward", "loss") if isinstance(logs.get(key), float)), None)
        if name is not None:
            self.training_bar.set_postfix({name: f"{logs[name]:.3f}"}, refresh=False)


@contextmanager
def closing_bars(trainer: Any) -> Iterator[None]:
    """Close the progress bar of a training that fails too, so that the error stands on a line of its own."""
    try:
        yield
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressBar) and callback.training_bar is not None:
                callback.training_bar.close()


def write_above_bar(text: str) -> None:
    """Print to standard error above a running progress bar."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
